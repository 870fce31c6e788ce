# Every service's image: docker build --build-arg SERVICE=ingestor .
# SERVICE is ingestor, transformer, trainer, evaluator, lakehouse, auditor, reconciler or cli (the `acequia` command).

FROM python:3.13-slim-trixie AS builder
ENV PIP_ROOT_USER_ACTION=ignore \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PROJECT_ENVIRONMENT=/app/.venv \
    UV_PYTHON=/usr/local/bin/python3 \
    UV_PYTHON_DOWNLOADS=never
RUN --mount=type=cache,target=/root/.cache/pip pip install --quiet "uv>=0.9,<1"
WORKDIR /src

# other people's packages first: a change of our sources leaves this layer alone
COPY pyproject.toml uv.lock ./
COPY shared/pyproject.toml shared/
COPY services/ingestor/pyproject.toml services/ingestor/
COPY services/transformer/pyproject.toml services/transformer/
COPY services/trainer/pyproject.toml services/trainer/
COPY services/evaluator/pyproject.toml services/evaluator/
COPY services/lakehouse/pyproject.toml services/lakehouse/
COPY services/auditor/pyproject.toml services/auditor/
COPY services/reconciler/pyproject.toml services/reconciler/
COPY cli/pyproject.toml cli/
ARG SERVICE
RUN --mount=type=cache,target=/root/.cache/uv \
    uv sync --quiet --locked --no-dev --no-install-workspace --package "acequia-${SERVICE:?say which: --build-arg SERVICE=ingestor}"

COPY shared shared
COPY services services
COPY cli cli
RUN --mount=type=cache,target=/root/.cache/uv \
    uv sync --quiet --locked --no-dev --no-editable --package "acequia-${SERVICE}"

FROM python:3.13-slim-trixie
ARG SERVICE
ENV SERVICE=${SERVICE} \
    PATH=/app/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ACEQUIA_HTTP_HOST=0.0.0.0 \
    ACEQUIA_HTTP_PORT=8000 \
    ACEQUIA_TEMP_DIR=/var/lib/acequia/tmp
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin acequia \
 && install -d -o acequia -g acequia -m 700 /var/lib/acequia/tmp
COPY --from=builder /app /app
COPY --chmod=755 deploy/service/start /app/start
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["/app/start"]
