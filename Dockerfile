# The operator's image: a wheel built in one stage, installed for an unprivileged user in the other.
# Build with `docker build -t fedgpu-operator:0.1.0 .`, or with `make image` on a machine that reaches no container
# registry: it makes the two bases itself. Nothing of the build stays in the result.
#
# BASE is what the operator runs on, BUILD_BASE what it is built on: a Debian with the same `python`, 3.11 or newer.
ARG BASE=python:3.11-slim
ARG BUILD_BASE=${BASE}

FROM ${BUILD_BASE} AS build
WORKDIR /src
# Files in the wheel carry this time instead of the time of the build.
ENV SOURCE_DATE_EPOCH=1767225600
RUN python -m venv /opt/fedgpu
# The pinned closure that the tests ran with, in a layer of its own: a change of the source does not fetch it again.
# Bytecode that nobody checks against its source is the same in every build: it carries no time.
COPY hack/constraints.txt hack/constraints.txt
COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      > requirements.txt \
 && /opt/fedgpu/bin/pip install --no-cache-dir --no-compile --constraint hack/constraints.txt -r requirements.txt \
 && python -m compileall -q --invalidation-mode unchecked-hash /opt/fedgpu/lib
COPY README.md LICENSE ./
COPY src src
RUN /opt/fedgpu/bin/pip install --no-cache-dir --no-compile --constraint hack/constraints.txt . \
 && /opt/fedgpu/bin/pip uninstall --yes setuptools pip \
 && python -m compileall -q --invalidation-mode unchecked-hash /opt/fedgpu/lib/python*/site-packages/fedgpu_operator

FROM ${BASE}
LABEL org.opencontainers.image.title="fedgpu-operator" \
      org.opencontainers.image.description="Kubernetes operator that federates decentralized GPU clusters" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/fedgpu /opt/fedgpu
# 65532 is what the chart runs it as; the ledger's folder exists for those who run the image without the chart.
RUN install --directory --owner=65532 --group=65532 --mode=0750 /var/lib/fedgpu
ENV PATH=/opt/fedgpu/bin:$PATH \
    FEDGPU_LOG_FORMAT=json \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /var/lib/fedgpu
EXPOSE 8080 9090
ENTRYPOINT ["fedgpu"]
CMD ["operator"]
