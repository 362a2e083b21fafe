// Reads a JSON list of objects and writes the word that kstatus has for each, one a line.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func main() {
	var raw []json.RawMessage
	if err := json.NewDecoder(os.Stdin).Decode(&raw); err != nil {
		fail(err)
	}
	for _, each := range raw {
		object := &unstructured.Unstructured{}
		// Not json.Unmarshal: it reads whole numbers as floats, and kstatus takes integers.
		if err := object.UnmarshalJSON(each); err != nil {
			fail(err)
		}
		result, err := status.Compute(object)
		if err != nil {
			fail(err)
		}
		fmt.Println(result.Status)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
