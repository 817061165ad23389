"""Video backbones: an image network plus a rule that gives it time.

model = create_model("timesformer", num_classes=174)
report = load_weights(model, "TimeSformer_divST_8x32_224_K400.pyth")
logits = model(clip)                    # clip (B, 3, T, H, W), float and normalised -> (B, num_classes)
vector = model.embed(clip)              # (B, model.num_features)
"""

from .cost import count_cost
from .hub import is_on_hub, model_folder
from .layouts import LoadReport, WeightsError, recognise, shapes_of
from .model import ClipSpec, Entry, Model
from .published import PublishedWeights, clip_spec, fetch, meant_by, published_record, published_weights
from .registry import UnknownModel, create_model, list_models, model_entry
from .weight_files import read_weights
from .weights import SavedModel, count_classes, create_published, load_model, load_weights, save_model, saved_model

__all__ = [
    "ClipSpec",
    "Entry",
    "LoadReport",
    "Model",
    "PublishedWeights",
    "SavedModel",
    "UnknownModel",
    "WeightsError",
    "clip_spec",
    "count_classes",
    "count_cost",
    "create_model",
    "create_published",
    "fetch",
    "is_on_hub",
    "list_models",
    "load_model",
    "load_weights",
    "meant_by",
    "model_entry",
    "model_folder",
    "published_record",
    "published_weights",
    "read_weights",
    "recognise",
    "save_model",
    "saved_model",
    "shapes_of",
]
