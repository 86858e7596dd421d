"""Any image-text-to-text model of the transformers library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image
from pydantic import Field

from unsafe2safe.backends.base import ChatRequest
from unsafe2safe.backends.transformers_common import TransformersChat
from unsafe2safe.core.config.components import component
from unsafe2safe.core.pretrained import load


@component
class TransformersVlm(TransformersChat):
    """A vision-language model on this machine. Requests without an image are answered too."""

    image_long_side: int = Field(
        default=1024, ge=28, description="Larger images are scaled down to this longest side."
    )
    image_options: dict[str, bool | int | float | str] = Field(
        default_factory=dict,
        description="Arguments of the image processor, such as crop_to_patches: false.",
    )

    def _model_class(self) -> Any:
        from transformers import AutoModelForImageTextToText

        return AutoModelForImageTextToText

    def _load_processor(self) -> Any:
        from transformers import AutoProcessor

        return load(
            AutoProcessor.from_pretrained,
            self.model,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
        )

    def _encoding_options(self) -> Mapping[str, Any]:
        images = {"images_kwargs": dict(self.image_options)} if self.image_options else {}
        return {"processor_kwargs": {"padding": True, **images}}

    def _content(self, text: str, image: Any) -> Any:
        picture = [] if image is None else [{"type": "image", "image": image}]
        return [*picture, {"type": "text", "text": text}]

    def _image(self, request: ChatRequest) -> Any:
        if request.image is None:
            return None
        image = Image.fromarray(request.image, mode="RGB")
        scale = self.image_long_side / max(image.size)
        if scale >= 1:
            return image
        width, height = (max(1, round(side * scale)) for side in image.size)
        return image.resize((width, height), Image.Resampling.LANCZOS)
