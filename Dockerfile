# Everything that `ttame` and the deployments of prefect.yaml need: docs/schedules.md.
#   docker build -t ttame .
#   docker run --rm -v ttame:/workspace ttame ttame audit examples/shapes.yaml
FROM python:3.11-slim

RUN useradd --create-home ttame && install -d -o ttame -g ttame /workspace
WORKDIR /app
COPY pyproject.toml README.md prefect.yaml ./
COPY flows flows
COPY tasks tasks
COPY ttame_core ttame_core
COPY examples examples
RUN pip install --no-cache-dir ".[dask,ray,s3,gcs,huggingface]"

USER ttame
ENV TTAME_WORKSPACE=/workspace
VOLUME /workspace
CMD ["ttame", "--help"]
