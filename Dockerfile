# The image for those who have a container engine and the network. `cargo xtask image` writes one without either.
# Build: docker build --tag imaccess .
FROM rust:1.95-slim-bookworm AS build
# A C compiler for aws-lc, which the compiler's own image has only in part.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc g++ libc6-dev make cmake \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    cargo build --release --locked --package imaccess \
 && strip --strip-all -o /imaccess target/release/imaccess

# glibc, libgcc, public authorities' certificates, the user nonroot (65532): nothing else, no shell.
FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="imaccess" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /imaccess /imaccess
USER 65532:65532
ENTRYPOINT ["/imaccess"]
