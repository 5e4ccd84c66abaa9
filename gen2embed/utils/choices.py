"""The names that a user chooses from, for annotations and command lines. This module imports no library."""

from __future__ import annotations

from typing import Literal

Role = Literal["query", "candidate"]
ROLES: tuple[Role, ...] = ("query", "candidate")

Precision = Literal["float32", "int8", "binary"]  # of stored vectors
PRECISIONS: tuple[Precision, ...] = ("float32", "int8", "binary")

Convention = Literal["reference", "native"]  # of a prompt
CONVENTIONS: tuple[Convention, ...] = ("native", "reference")

Dtype = Literal["auto", "float32", "bfloat16", "float16"]  # of a model's weights
Attention = Literal["sdpa", "eager", "flash_attention_2"]

ExportDtype = Literal["float32", "bfloat16", "float16"]
EXPORT_DTYPES: tuple[ExportDtype, ...] = ("float32", "bfloat16", "float16")
EXPORT_KINDS = ("merged", "adapter", "sentence-transformers", "vllm")
