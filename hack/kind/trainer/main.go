// Work for the lab's kubelets: it computes for a while, says how far it is once a second, and exits as asked.
// SIGTERM makes it write down where it is and exit with 143, as a trainer with checkpoints does.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	lasts := flag.Duration("for", 20*time.Second, "how long to compute")
	code := flag.Int("exit", 0, "the exit code at the end")
	flag.Parse()

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	end := time.After(*lasts)
	second := time.NewTicker(time.Second)
	steps, loss := 0, 1.0
	fmt.Printf("training for %s\n", *lasts)
	for {
		select {
		case <-stop:
			fmt.Printf("stopped at step %d, checkpoint written\n", steps)
			os.Exit(143)
		case <-end:
			fmt.Printf("done after %d steps, loss %.4f\n", steps, loss)
			os.Exit(*code)
		case <-second.C:
			for range 1000 {
				loss *= 0.9999
			}
			steps += 1000
			fmt.Printf("step %d, loss %.4f\n", steps, loss)
		}
	}
}
