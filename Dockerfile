# telemetryd as a container: built in one stage, run from another without build tools.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY telemetryd telemetryd
RUN python3 -m venv /opt/telemetryd \
 && /opt/telemetryd/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt . \
 && /opt/telemetryd/bin/pip uninstall --yes --quiet pip setuptools

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/telemetryd /opt/telemetryd
ENV PATH=/opt/telemetryd/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# A container's loopback is nobody else's: probes and Prometheus come from outside. It overrides
# the file; set it empty to let the file decide.
ENV TELEMETRYD_LISTEN=:10464
# Certificates that a kubeconfig holds inline become files: in memory, and where a read-only root
# file system leaves room for them. So is the control socket of `telemetryd ctl`.
ENV TMPDIR=/dev/shm RUNTIME_DIRECTORY=/dev/shm/telemetryd
USER 65532:65532
EXPOSE 10464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --retries=3 CMD ["telemetryd", "healthcheck"]
ENTRYPOINT ["telemetryd"]
CMD ["run"]
