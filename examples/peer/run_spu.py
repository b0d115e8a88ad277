"""SecretFlow-SPU beside Catamount: one model shape, random weights, three local parties.

    pip install spu==0.9.5 jax==0.4.34 jaxlib==0.4.34 numpy==1.26.4        # Python 3.10 or 3.11
    catamount bench peer --spu-python .../bin/python --shape gpt2          # what drives this script

The script starts three processes that talk over SPU's own link on 127.0.0.1, shares weights and input with them, and
prints {"ready": ...}. Then each line on standard input makes one pass, which prints {"seconds": ..., "bytes": ...}.
The clock holds `spu.Runtime.run` alone, from a barrier to the slowest party; weights and input are shared before.
Bytes are what the three parties' links have sent, added up, as SPU counts them in its log.

Protocol ABY3 over 64-bit words with PUMA's activations (arXiv 2307.12533): exp by (1 + x/32)^32, GeLU and SiLU by
polynomials, softmax clipped at -14. Weights and input are secret.
"""

import argparse
import json
import math
import multiprocessing
import os
import re
import socket
import sys
import tempfile
import time

RUNTIME = {
    "protocol": "ABY3",
    "field": "FM64",
    "fxp_exp_mode": "EXP_TAYLOR",
    "fxp_exp_iters": 5,
    # Prints the bytes sent after each pass; SPU offers them nowhere else.
    "enable_pphlo_profile": True,
}

SHAPES = {
    "gpt2": dict(family="gpt2", layers=12, width=768, heads=12, kv=12, inner=3072, vocab=50257, context=1024),
    "bert-base": dict(family="bert", layers=12, width=768, heads=12, kv=12, inner=3072, vocab=30522, context=512),
    "smollm2": dict(family="llama", layers=30, width=576, heads=9, kv=3, inner=1536, vocab=49152, context=8192),
}


# ---- one party -------------------------------------------------------------------------------------------------------


def configuration():
    from spu import libspu

    config = libspu.RuntimeConfig()
    config.ParseFromJsonString(json.dumps(RUNTIME))
    return config


def party(rank, addresses, log_path, pipe):
    """Serves requests from `pipe`. SPU logs to the process's standard output, which becomes the file `log_path`."""
    log = os.open(log_path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import spu
    from spu import libspu

    description = libspu.link.Desc()
    for i, address in enumerate(addresses):
        description.add_party(f"party{i}", address)
    link = libspu.link.create_brpc(description, rank)
    runtime = spu.Runtime(link, configuration())
    program = libspu.Executable()
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            os._exit(0)
        try:
            if request[0] == "set":
                runtime.set_var(request[1], request[2])
                answer = None
            elif request[0] == "program":
                program.ParseFromString(request[1])
                answer = None
            elif request[0] == "get":
                answer = runtime.get_var(request[1])
            else:
                answer = timed_run(runtime, link, program, log_path)
            pipe.send((True, answer))
        except Exception as error:  # noqa: BLE001: travels to the driver, which ends
            pipe.send((False, f"{type(error).__name__}: {error}"))


def timed_run(runtime, link, program, log_path):
    """Seconds of this party, and the bytes that it sent."""
    seen = os.path.getsize(log_path)
    link.barrier()
    start = time.perf_counter()
    runtime.run(program)
    seconds = time.perf_counter() - start
    with open(log_path, "rb") as log:
        log.seek(seen)
        text = log.read().decode("utf-8", "replace")
    sent = re.findall(r"total send bytes (\d+)", text)
    if not sent:
        raise RuntimeError("SPU's log does not say how many bytes were sent; is this another version?")
    return seconds, int(sent[-1])


class Cluster:
    """Three parties and the pipes to them."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="spu-peer-")
        sockets = [socket.socket() for _ in range(3)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        addresses = ["127.0.0.1:%d" % s.getsockname()[1] for s in sockets]
        for s in sockets:
            s.close()
        spawn = multiprocessing.get_context("spawn")
        self.pipes = []
        for rank in range(3):
            ours, theirs = spawn.Pipe()
            log = os.path.join(self.folder.name, f"{rank}.log")
            spawn.Process(target=party, args=(rank, addresses, log, theirs), daemon=True).start()
            theirs.close()
            self.pipes.append(ours)

    def ask(self, requests):
        """One request for each party; their answers."""
        for pipe, request in zip(self.pipes, requests):
            pipe.send(request)
        answers = []
        for rank, pipe in enumerate(self.pipes):
            try:
                good, answer = pipe.recv()
            except EOFError:
                good, answer = False, f"it has ended; its log says:\n{self.last_words(rank)}"
            if not good:
                sys.exit(f"party {rank} of SPU: {answer}")
            answers.append(answer)
        return answers

    def last_words(self, rank):
        with open(os.path.join(self.folder.name, f"{rank}.log"), errors="replace") as log:
            return "".join(log.readlines()[-5:])


# ---- the models ------------------------------------------------------------------------------------------------------


def weights(shape, generator):
    """(name, array) of all parameters: normal with deviation 0.02, gains 1, biases 0."""
    import numpy as np

    width, inner, vocab = shape["width"], shape["inner"], shape["vocab"]
    narrow = width // shape["heads"] * shape["kv"]

    def matrix(name, rows, columns):
        return name, generator.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.02)

    def norm(name, biased):
        yield name + ".gain", np.ones(width, np.float32)
        if biased:
            yield name + ".bias", np.zeros(width, np.float32)

    def linear(name, rows, columns):
        yield matrix(name, rows, columns)
        yield name + ".bias", np.zeros(columns, np.float32)

    llama, bert = shape["family"] == "llama", shape["family"] == "bert"
    yield matrix("tokens", vocab, width)
    if not llama:
        yield matrix("positions", shape["context"], width)
    if bert:
        yield matrix("types", 2, width)
        yield from norm("first", True)
    for i in range(shape["layers"]):
        at = f"{i}."
        yield from norm(at + "norm1", not llama)
        yield from norm(at + "norm2", not llama)
        if llama:
            for name, rows, columns in [
                ("q", width, width), ("k", width, narrow), ("v", width, narrow), ("o", width, width),
                ("gate", width, inner), ("up", width, inner), ("down", inner, width),
            ]:  # fmt: skip
                yield matrix(at + name, rows, columns)
        else:
            for name, rows, columns in [
                ("q", width, width), ("k", width, width), ("v", width, width), ("o", width, width),
                ("up", width, inner), ("down", inner, width),
            ]:  # fmt: skip
                yield from linear(at + name, rows, columns)
    if bert:
        yield from linear("pooler", width, width)
        yield from linear("labels", width, 2)
    else:
        yield from norm("last", not llama)


def gelu(x):
    """PUMA, section 4.1: a cubic on [-4, -1.95), an even-odd polynomial of degree 6 on [-1.95, 3], x above."""
    import jax.numpy as jnp

    small, low, high = x < -4.0, x < -1.95, x > 3.0
    middle = jnp.logical_not(jnp.logical_xor(low, high))
    x2 = x * x
    x3, x4 = x2 * x, x2 * x2
    cubic = -0.011034134030615728 * x3 - 0.11807612951181953 * x2 - 0.42226581151983866 * x - 0.5054031199708174
    sixth = (
        0.0018067462606141187 * (x4 * x2) - 0.037688200365904236 * x4 + 0.3603292692789629 * x2
        + 0.5 * x + 0.008526321541038084
    )  # fmt: skip
    return high * x + jnp.logical_xor(small, low) * cubic + middle * sixth


def silu(x):
    """PUMA's for LLaMA: a parabola on [-8, -4), degree 6 on [-4, 4], x above."""
    import jax.numpy as jnp

    small, low, high = x < -8.0, x < -4.0, x > 4.0
    middle = jnp.logical_not(jnp.logical_xor(low, high))
    x2 = x * x
    x4 = x2 * x2
    parabola = -0.0055465625580307 * x2 - 0.0819767021525476 * x - 0.3067541139982155
    sixth = (
        0.0002743776353465 * (x4 * x2) - 0.011113046708173 * x4 + 0.2281430841728270 * x2
        + 0.5 * x + 0.0085064025895951
    )  # fmt: skip
    return high * x + jnp.logical_xor(small, low) * parabola + middle * sixth


def softmax(scores):
    import jax.numpy as jnp

    shifted = scores - jnp.max(scores, axis=-1, keepdims=True)
    powers = jnp.exp(shifted) * (shifted > -14.0)
    return powers / jnp.sum(powers, axis=-1, keepdims=True)


def forward(shape, onehot, w):
    """Outputs at the last position (or of the two labels) for tokens as unit rows [tokens, vocab]."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    family, heads, kv = shape["family"], shape["heads"], shape["kv"]
    tokens, size = onehot.shape[0], shape["width"] // heads

    def norm(x, name):
        if family != "llama":
            x = x - jnp.mean(x, axis=-1, keepdims=True)
        scale = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5)
        x = x * scale * w[name + ".gain"]
        return x if family == "llama" else x + w[name + ".bias"]

    def linear(x, name):
        x = x @ w[name]
        return x if family == "llama" else x + w[name + ".bias"]

    def split(x, count):
        return x.reshape(tokens, count, size).transpose(1, 0, 2)

    angles = np.outer(np.arange(tokens), 10000.0 ** (-np.arange(0, size, 2) / size))
    cosine, sine = (np.tile(f(angles), 2).astype(np.float32) for f in (np.cos, np.sin))

    def rotate(x):
        half = size // 2
        return x * cosine + jnp.concatenate([-x[..., half:], x[..., :half]], axis=-1) * sine

    def attention(x, at):
        q, k, v = split(linear(x, at + "q"), heads), split(linear(x, at + "k"), kv), split(linear(x, at + "v"), kv)
        if family == "llama":
            q, k = rotate(q), rotate(k)
            k, v = (jnp.repeat(y, heads // kv, axis=0) for y in (k, v))
        scores = q @ k.transpose(0, 2, 1) * (1.0 / math.sqrt(size))
        if family != "bert":
            scores = scores + np.triu(np.full((tokens, tokens), -1e4, np.float32), 1)
        mixed = softmax(scores) @ v
        return linear(mixed.transpose(1, 0, 2).reshape(tokens, heads * size), at + "o")

    def mlp(x, at):
        if family == "llama":
            return linear(silu(linear(x, at + "gate")) * linear(x, at + "up"), at + "down")
        return linear(gelu(linear(x, at + "up")), at + "down")

    x = onehot @ w["tokens"]
    if family != "llama":
        x = x + w["positions"][:tokens]
    if family == "bert":
        x = norm(x + w["types"][0], "first")
    for i in range(shape["layers"]):
        at = f"{i}."
        if family == "bert":
            x = norm(x + attention(x, at), at + "norm1")
            x = norm(x + mlp(x, at), at + "norm2")
        else:
            x = x + attention(norm(x, at + "norm1"), at)
            x = x + mlp(norm(x, at + "norm2"), at)
    if family == "bert":
        return linear(jnp.tanh(linear(x[:1], "pooler")), "labels")
    return norm(x[-1:], "last") @ w["tokens"].T


# ---- the driver ------------------------------------------------------------------------------------------------------


def main():
    # SPU logs to standard output; figures keep it for themselves.
    figures = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(**values):
        figures.write(json.dumps(values) + "\n")

    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--shape", choices=list(SHAPES), required=True)
    arguments.add_argument("--tokens", type=int, required=True)
    arguments.add_argument("--layers", type=int, help="fewer layers than the shape has")
    given = arguments.parse_args()

    import jax
    import numpy as np
    import spu
    from spu import libspu
    from spu.utils import frontend

    shape = dict(SHAPES[given.shape])
    shape["layers"] = given.layers or shape["layers"]
    cluster = Cluster()
    generator = np.random.default_rng()
    ids = generator.integers(0, shape["vocab"], given.tokens)
    onehot = np.zeros((given.tokens, shape["vocab"]), np.float32)
    onehot[np.arange(given.tokens), ids] = 1.0
    inputs = [("input", onehot), *weights(shape, generator)]
    names = [name for name, _ in inputs]

    def program(*arrays):
        return forward(shape, arrays[0], dict(zip(names[1:], arrays[1:])))

    options = libspu.CompilerOptions()
    # x / y by rows becomes x · (1 / y), as PUMA's examples have it.
    options.enable_optimize_denominator_with_broadcast = True
    kinds = [jax.ShapeDtypeStruct(array.shape, array.dtype) for _, array in inputs]
    secret = [libspu.Visibility.VIS_SECRET] * len(names)
    executable, _ = frontend.compile(
        frontend.Kind.JAX, program, kinds, {}, names, secret, lambda flat: ["output"],
        static_argnums=(), copts=options,
    )  # fmt: skip
    compiled = executable.SerializeToString()
    cluster.ask([("program", compiled)] * 3)
    io = spu.Io(3, configuration())
    for name, array in inputs:
        shares = io.make_shares(np.ascontiguousarray(array), libspu.Visibility.VIS_SECRET)
        cluster.ask([("set", name, share) for share in shares])
    with jax.default_matmul_precision("highest"):
        expected = np.asarray(program(*(array for _, array in inputs)))
    del inputs
    say(ready=given.shape, version=spu.__version__, jax=jax.__version__)
    for _ in sys.stdin:
        answers = cluster.ask([("run",)] * 3)
        output = io.reconstruct(cluster.ask([("get", "output")] * 3))
        say(
            seconds=max(seconds for seconds, _ in answers),
            bytes=sum(sent for _, sent in answers),
            max_error=float(np.abs(output - expected).max()),
        )


if __name__ == "__main__":
    main()
