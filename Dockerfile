# A CPU image: docker build -t imdb-lightning .
# docker run --rm -v "$PWD/outputs:/runs/outputs" imdb-lightning train model=gru trainer.max_epochs=10
FROM python:3.12-slim

# The C compiler builds the kernels of cells on their first use.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev libgomp1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /runs
COPY pyproject.toml README.md LICENSE /src/
COPY imdb_lightning /src/imdb_lightning
COPY hydra_plugins /src/hydra_plugins
COPY conf /src/conf
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu /src

ENTRYPOINT ["imdb-lightning"]
CMD ["--help"]
