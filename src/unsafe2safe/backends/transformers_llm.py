"""Any chat language model of the transformers library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unsafe2safe.backends.base import ChatRequest
from unsafe2safe.backends.transformers_common import TransformersChat
from unsafe2safe.core.config.components import component
from unsafe2safe.core.pretrained import load


@component
class TransformersLlm(TransformersChat):
    """A language model on this machine. A request with an image is an error."""

    def _model_class(self) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    def _load_processor(self) -> Any:
        from transformers import AutoTokenizer

        return load(
            AutoTokenizer.from_pretrained,
            self.model,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
        )

    def _encoding_options(self) -> Mapping[str, Any]:
        return {"padding": True}

    def _content(self, text: str, image: Any) -> Any:
        if image is not None:
            raise ValueError("a language model sees no images")
        return text

    def _image(self, request: ChatRequest) -> Any:
        return request.image
