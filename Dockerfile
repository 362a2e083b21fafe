# The operator's image: a wheel built in one stage, installed for an unprivileged user in the other.
# Build with `docker build -t fedgpu-operator:0.1.0 .`; nothing of the build stays in the result.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
WORKDIR /src
RUN python -m venv /opt/fedgpu
# The pinned closure that the tests ran with.
COPY hack/constraints.txt hack/constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/fedgpu/bin/pip install --no-cache-dir --constraint hack/constraints.txt . \
 && /opt/fedgpu/bin/pip uninstall --yes pip \
 && python -m compileall -q /opt/fedgpu

FROM python:${PYTHON}-slim
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
