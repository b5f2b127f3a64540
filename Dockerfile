# The daemon in a small image, without root and without a shell.
#
#   docker build -t rowbust .
#   docker run --rm -v ./rowbust.yaml:/etc/rowbust/rowbust.yaml:ro -v rowbust-data:/var/lib/rowbust rowbust
#
# The second target, `load`, is the demo application of docker-compose.yml.

FROM rust:1.95-slim-bookworm AS build
# librdkafka needs a C++ compiler and make, TLS to Kafka and the driver mysql_cdc OpenSSL.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make pkg-config libssl-dev \
    && rm -rf /var/lib/apt/lists/*
# What the last image lacks is linked in, and looked for below.
ENV LIBZ_SYS_STATIC=1
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package rowbust \
    && install -d /out && strip --strip-debug -o /out/rowbust target/release/rowbust \
    && ! ldd /out/rowbust | grep -Ev 'linux-vdso|ld-linux|libc\.|libm\.|libgcc_s\.|libstdc\+\+\.|libssl\.|libcrypto\.' \
    && install -d -o 65532 -g 65532 /out/data

FROM debian:bookworm-20251229-slim AS load
RUN apt-get update \
    && apt-get install -y --no-install-recommends mariadb-client redis-tools \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 65532 load
COPY deploy/compose/load.sh /usr/local/bin/load
USER 65532
ENTRYPOINT ["/usr/local/bin/load"]

# glibc, OpenSSL and the authorities' certificates; nothing to log in to.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/rowbust /usr/local/bin/rowbust
COPY --from=build --chown=65532:65532 /out/data /var/lib/rowbust
USER 65532:65532
WORKDIR /etc/rowbust
VOLUME /var/lib/rowbust
EXPOSE 8321
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["/usr/local/bin/rowbust", "-c", "/etc/rowbust/rowbust.yaml", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/rowbust"]
CMD ["-c", "/etc/rowbust/rowbust.yaml", "run"]
