"""`GET /models` and `GET /models/{id}`."""

from fastapi import APIRouter, Path, Request

from service.model_pool import ModelPool
from service.schemas import ModelInfo, ModelList

router = APIRouter(tags=["models"])


@router.get("/models", summary="List the served models")
async def list_models(request: Request) -> ModelList:
    """Every served model, the default one first."""
    pool: ModelPool = request.app.state.pool
    return ModelList(models=[model.info() for model in pool])


@router.get("/models/{model_id}", summary="Describe a served model")
async def describe_model(
    request: Request, model_id: str = Path(description="The model's id.", examples=["starter"])
) -> ModelInfo:
    """One served model."""
    pool: ModelPool = request.app.state.pool
    return pool.get(model_id).info()
