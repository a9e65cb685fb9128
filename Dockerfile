# docker build -t neither .        docs/container.md has the rest: CPU only, GPU, own uid, pinning
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS neither
# The index that torch and torchvision come from, both of them, so that they match. Empty: PyPI's,
# which bring CUDA along and compute without it too.
ARG TORCH_INDEX=
ENV PATH=/venv/bin:${PATH}
WORKDIR /neither
# Dependencies before source: they take longest and change least, so their layer stays cached.
COPY pyproject.toml ./
RUN python3 -m venv /venv \
    && python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*project['dependencies'], *project['optional-dependencies']['pretrained'], *project['optional-dependencies']['serve'], sep='\n')" > /tmp/all \
    && grep '^torch' /tmp/all > /tmp/torch \
    && pip install --no-cache-dir ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} -r /tmp/torch \
    && pip install --no-cache-dir -r /tmp/all \
    && pip check \
    && rm /tmp/all /tmp/torch
COPY README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --no-deps . && rm -r src README.md LICENSE pyproject.toml
COPY scripts scripts
COPY configs configs
# To be mounted: data, read-only; runs; the cache. Any uid may write the last two, as it may /tmp: with
# --user 1234:1234 there is neither a name nor a home. Docker gives a new volume the mode of its folder.
RUN useradd --uid 1000 --create-home neither \
    && mkdir data runs /cache && chmod 1777 runs /cache
ENV XDG_CACHE_HOME=/cache MPLCONFIGDIR=/cache/matplotlib
USER 1000
EXPOSE 6006
EXPOSE 8000
ENTRYPOINT ["neither"]
CMD ["--help"]

# docker build --target smoke .    draws the demo images, trains on them and evaluates, as the user
FROM neither AS smoke
# The import fails where torch computes on the CPU only and torchvision wants CUDA, or the reverse.
RUN python -c "import torchvision" \
    && neither prepare_data demo --output-dir /tmp/demo \
    && chmod -R a-w /tmp/demo \
    && neither train configs/demo.yaml data.root=/tmp/demo train.epochs=2 \
    && neither evaluate runs/demo /tmp/demo --require 'macro_recall>=0.5'

# What docker build makes unless told otherwise.
FROM neither
