# syntax=docker/dockerfile:1
# Neither VOLUME nor cache mounts: some platforms that build from a Dockerfile refuse them.
# Builds with the same command a contributor types; the image holds what `cargo xtask build --out` gathers.

FROM rust:1.95-bookworm AS builder
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo xtask build --out /out

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /data --create-home nexus \
    && mkdir /data/store \
    && chown -R nexus: /data
COPY --from=builder /out/model-nexus /usr/local/bin/
COPY --from=builder /out/libonnxruntime.so /opt/model-nexus/
COPY --from=builder /out/bundle /opt/model-nexus/bundle
ENV ORT_DYLIB_PATH=/opt/model-nexus/libonnxruntime.so \
    NEXUS_BUNDLE=/opt/model-nexus/bundle \
    NEXUS_STORE=/data/store
# A number, so that Kubernetes can tell that it is not root.
USER 10001
WORKDIR /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["model-nexus", "health"]
ENTRYPOINT ["model-nexus"]
CMD ["serve"]
