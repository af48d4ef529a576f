# syntax=docker/dockerfile:1
# One image with both programs, the operator and the listener; which one runs is given as the
# command. It has no shell and runs as nobody.

# To pin them, give each with its digest: --build-arg BASE_IMAGE=gcr.io/…@sha256:…
ARG BUILD_IMAGE=docker.io/library/rust:1-bookworm
ARG BASE_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
COPY . .
# Caches do not outlive the step, so the programs are copied out of them in it.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --profile dist --locked --package observer-operator --package observer-listener \
    && mkdir /out \
    && cp target/dist/observer-operator target/dist/observer-listener /out/ \
    && strip /out/* \
    && ln -s observer-listener /out/kubectl-observers

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="observers" \
      org.opencontainers.image.description="Observers for Postgres: the operator and the listener" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /out/ /usr/local/bin/
# Gives large buffers back to the system as soon as they are free: by itself glibc keeps those of the size
# that it has seen freed before.
ENV MALLOC_MMAP_THRESHOLD_=1048576
USER 65532:65532
