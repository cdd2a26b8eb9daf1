"""vLLM's and llama.cpp's own servers of a small model, in processes that can be killed.

As a program, ``python real_servers.py MODEL PORT`` is llama.cpp's server.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

import requests

Kind = Literal["vllm", "llama.cpp"]

SECONDS: Final = 300
"""The longest that a server may take to start."""

CONTEXT: Final = 512
"""Ids of the model's context."""

_GGUF: Final = "model.gguf"


def lacks_llama_cpp() -> str:
    """Return what is missing for llama.cpp's server, if anything."""
    missing = [name for name in ("xllamacpp", "gguf") if find_spec(name) is None]
    return f"not installed: pip install {' '.join(missing)}" if missing else ""


def save_model(folder: Path) -> None:
    """Save a chat model of random weights that both servers run, in transformers' format and as GGUF."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from tests.families import family_tokenizer

    torch.manual_seed(0)
    words = family_tokenizer("qwen2")
    config = Qwen2Config(
        vocab_size=len(words), hidden_size=64, num_hidden_layers=2, intermediate_size=64,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=CONTEXT,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=words.eos_token_id,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
        # Bodies end soon.
        (line,) = words.encode("\n", add_special_tokens=False)
        model.lm_head.weight[line] *= 3.0
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    if not lacks_llama_cpp():
        _save_gguf(folder / _GGUF, model, words)


def _save_gguf(path: Path, model: Any, words: Any) -> None:
    import gguf

    config, vocabulary = model.config, json.loads(words.backend_tokenizer.to_str())
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    special = {token["id"]: token["content"] for token in vocabulary["added_tokens"]}
    texts = {i: text for text, i in vocabulary["model"]["vocab"].items()} | special
    kinds = [gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in sorted(texts)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([texts[i] for i in sorted(texts)])
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["model"]["merges"]])
    writer.add_eos_token_id(words.eos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(words.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(
            names.get_name(name, try_suffixes=(".weight", ".bias")), tensor.float().numpy()
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def address(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1"


class RealServer:
    """A server that was started and answers.

    Args:
        kind: whose.
        folder: the model's.
        port: where it listens.
    """

    def __init__(self, kind: Kind, folder: Path, port: int) -> None:
        self._log = folder / f"{port}.log"
        command, environment = _command(kind, folder, port)
        with self._log.open("a") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, env=os.environ | environment,
                start_new_session=True,
            )  # fmt: skip
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            try:
                if requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok:
                    return
            except requests.RequestException:
                pass
            time.sleep(0.2)
        self.kill()
        raise RuntimeError(f"the server ended, or did not start: {self._log.read_text()[-3000:]}")

    def kill(self) -> None:
        """Kill it and its workers at once, as the system does when memory runs out."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def real_server(kind: Kind, folder: Path, port: int) -> Iterator[RealServer]:
    server = RealServer(kind, folder, port)
    try:
        yield server
    finally:
        server.kill()


def _command(kind: Kind, folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    if kind == "llama.cpp":
        return [sys.executable, __file__, str(folder / _GGUF), str(port)], {}
    settings = [
        "--model", str(folder), "--served-model-name", "tiny", "--host", "127.0.0.1",
        "--port", str(port), "--dtype", "float32", "--enforce-eager", "--max-model-len", str(CONTEXT),
        "--block-size", "32", "--kv-cache-memory-bytes", str(1 << 25),
        "--logprobs-mode", "processed_logprobs",
    ]  # fmt: skip
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *settings]
    return command, {"TORCH_COMPILE_DISABLE": "1"}


def _serve_llama_cpp(model: str, port: int) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {"tiny"}
    params.port = port
    params.n_parallel = 4
    params.n_ctx = params.n_parallel * CONTEXT
    params.fit_params = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    signal.pause()
    del server


if __name__ == "__main__":
    _serve_llama_cpp(sys.argv[1], int(sys.argv[2]))
