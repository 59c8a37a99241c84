# telemetryd as a container: installed in one stage, run from another without what installs.
#
#   docker build -t telemetryd:1.0.0 .
#
# PYTHON_IMAGE is any Debian-like image with Python 3.11 or newer and the system's CA certificates;
# name it by its digest to build the same image again, as `make release` demands. SOURCE_DATE_EPOCH
# is for builders that set the times of layers by it. REVISION is the commit, which `telemetryd version`
# and the label name.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
ARG SOURCE_DATE_EPOCH
ARG REVISION
WORKDIR /src
COPY requirements.lock requirements-build.lock pyproject.toml README.md LICENSE ./
COPY supply/install supply/install
COPY telemetryd telemetryd
RUN supply/install /opt/telemetryd

FROM ${PYTHON_IMAGE}
ARG PYTHON_IMAGE
ARG VERSION=1.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="telemetryd" \
      org.opencontainers.image.description="Telemetry daemon for Rancher and Kubernetes: watches, aggregates, exports, and shows what it sends" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
# No installer is left that could be run, neither the base's nor what would make one anew.
RUN rm -rf /usr/local/lib/python3*/site-packages/* /usr/local/lib/python3*/ensurepip /usr/local/bin/pip* \
      /usr/lib/python3*/ensurepip /usr/share/python-wheels \
 && install -d -o 65532 -g 65532 -m 0700 /var/lib/telemetryd
COPY --from=build /opt/telemetryd /opt/telemetryd
ENV PATH=/opt/telemetryd/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# A container's loopback is nobody else's: probes and Prometheus come from outside. It overrides
# the file; set it empty to let the file decide.
ENV TELEMETRYD_LISTEN=:10464
# A read-only root file system leaves room here for the control socket of `telemetryd ctl`, and for a
# client certificate where the kernel has no anonymous files.
ENV TMPDIR=/dev/shm RUNTIME_DIRECTORY=/dev/shm/telemetryd
USER 65532:65532
EXPOSE 10464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 CMD ["telemetryd", "healthcheck"]
ENTRYPOINT ["telemetryd"]
CMD ["run"]
