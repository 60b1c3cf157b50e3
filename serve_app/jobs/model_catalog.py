"""class ModelCatalog: names, aliases, capabilities and languages of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from serve_app.errors import RequestError
from serve_app.models.job import JobSpec


@dataclass(frozen=True, slots=True)
class Model:
    """A model that jobs may name."""

    id: str
    languages: tuple[str, ...]  # Whisper's codes


class ModelCatalog:
    """Models by id. The first is the default, also of an empty alias."""

    def __init__(self, models: Sequence[Model], aliases: Mapping[str, str] = MappingProxyType({})) -> None:
        self._models = {model.id: model for model in models}
        self._aliases = aliases

    @property
    def models(self) -> tuple[Model, ...]:
        return tuple(self._models.values())

    def model_of(self, name: str) -> str:
        """Id of the model that a name or alias, or `provider/name`, stands for; else the name itself."""
        for candidate in (name, name.partition("/")[2] or name):
            model_id = self._aliases.get(candidate, candidate)
            if not model_id or model_id in self._models:
                return model_id or self.models[0].id
        return name

    def resolve(self, spec: JobSpec) -> JobSpec:
        """Keep the models that can do the job. Raises RequestError of the first if none can."""
        capable: list[str] = []
        problem: RequestError | None = None
        for name in (spec.model, *spec.fallbacks):
            model_id = self.model_of(name)
            try:
                self._check(model_id, spec)
                capable.append(model_id)
            except RequestError as error:
                problem = problem or error
        if problem and not capable:
            raise problem
        first, *others = dict.fromkeys(capable)
        return replace(spec, model=first, fallbacks=tuple(others), requested_model=spec.model)

    def _check(self, model_id: str, spec: JobSpec) -> None:
        model = self._models.get(model_id)
        if model is None:
            raise RequestError("model_unavailable", f"There is no model {model_id!r} here: use {', '.join(self._models)}.")
        english_only = model.languages == ("en",)
        if spec.language and spec.language not in model.languages:
            supported = "it transcribes English only" if english_only else "use an ISO 639-1 code such as en, de or zh"
            message = f"{model_id} does not support the language {spec.language!r}: {supported}."
            raise RequestError("language_unsupported", message)
        if spec.task == "translate" and english_only:
            raise RequestError("feature_unavailable", f"{model_id} cannot translate: choose a multilingual model.")
