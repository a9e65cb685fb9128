# docker build -t neither .
# docker run --rm -v "$PWD/photos:/neither/photos:ro" -v "$PWD/runs:/neither/runs" neither \
#     train configs/photos_quick.yaml data.root=photos
ARG BASE=python:3.13-slim
FROM ${BASE}

WORKDIR /neither
# Dependencies first: they change rarely, and take longest.
COPY pyproject.toml README.md LICENSE ./
RUN mkdir -p src/neither && touch src/neither/__init__.py \
    && pip install --no-cache-dir . && pip uninstall --yes neither
COPY src src
COPY scripts scripts
COPY configs configs
RUN pip install --no-cache-dir --no-deps . \
    && useradd --create-home neither && mkdir -p runs data && chown neither runs data
USER neither

EXPOSE 6006
ENTRYPOINT ["neither"]
CMD ["--help"]
