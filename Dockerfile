# The image contains the default model; weft runs as an unprivileged user, without a shell and without Python.
FROM golang:1.26-bookworm AS build
WORKDIR /src
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev python3 python3-pip python3-venv
COPY go.mod go.sum ./
COPY internal/replaced internal/replaced
RUN go mod download
COPY . .
# VERSION takes the place of the version in cmd/weft, as a git tag does in `make build`
ARG VERSION
RUN go build -buildvcs=false -trimpath -ldflags "-s -w ${VERSION:+-X main.version=$VERSION} -linkmode external -extldflags -static" -tags netgo,osusergo -o /out/weft ./cmd/weft
RUN XDG_CACHE_HOME=/out/cache scripts/fetch-model
RUN mkdir -p /out/data

FROM scratch AS nonroot
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/weft /weft
COPY --from=build --chown=65532:65532 /out/cache /cache
COPY --from=build --chown=65532:65532 /out/data /data
ENV XDG_CACHE_HOME=/cache WEFT_DATA=/data
VOLUME /data
EXPOSE 8000
USER 65532:65532
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/weft", "doctor", "--url", "http://127.0.0.1:8000"]
ENTRYPOINT ["/weft"]
# Loopback of a container cannot be reached from outside. Put keys in a file and add --api-key-file, or use --insecure
# in a network that you control.
CMD ["serve", "--listen", "0.0.0.0:8000", "--api-key-file", "/run/secrets/weft-keys"]
