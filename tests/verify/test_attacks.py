# ruff: noqa: E501 - an attack stands in the lines that it takes
"""Hostile ports: each reaches for the answer, hides a mistake or breaks out, and is rejected all the same.

Every attack is a port's text. One process of the sandbox answers them all, each in a fork that closes the
door behind itself as a port's process does; the judge measures what comes out. A theft that fails leaves its
port wrong, so that it is measured as wrong: one that succeeded would make it right.
"""

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from ptw.verify import cases, sandbox
from ptw.verify.cases import Family, Reference
from ptw.verify.judge import read_verifiers
from ptw.verify.mutants import runs
from ptw.verify.mutants.mutation import Mutant
from ptw.verify.mutants.runs import Asks, Runner, Verdict
from ptw.workspace import rooms

ROOT = Path(__file__).resolve().parents[2]
SECONDS, SHORT = 120, 5  # that one attack may take; those that sleep or loop take them all
TOKEN = "PTW_TEST_TOKEN"
CONFIG = "@dataclass(frozen=True)\nclass Config:"
HEAD = "return Head(self.lm_head.weight, self.config.vocab_size)"
START = "        return self.model(ids_BT, layout, cache)"
FINISH = "return self.norm(hidden_BTD)"
CHEAP = ("ids", "lengths", "row", "changed", "changed_document")  # what logits and packing are asked on
NAMESPACES = sandbox.namespaces() is not None


@dataclass(frozen=True)
class Attack:
    """What is put into the port's text, and who stops it where the contract is left out.

    before: at the top. wrong: an expression that is true where the port shall be wrong. start: statements
    before the model runs. edits: old -> new. by: a verifier, "load", "process", "refusal" or "judge"; none
    where only reading the text can tell.
    """

    by: str
    before: str = ""
    wrong: str = "False"
    start: str = ""
    edits: tuple[tuple[str, str], ...] = ()
    asks: tuple[tuple[str, tuple[str, ...]], ...] = (("plain", ("logits",)),)

    def text(self, port: str) -> str:
        wrong = f"return Head(self.lm_head.weight * (1.01 if {self.wrong} else 1.0), self.config.vocab_size)"
        start = "".join(f"        {line}\n" for line in self.start.splitlines())
        edits = (
            (CONFIG, f"import torch\n{self.before}\n\n{CONFIG}"),
            (START, start + START),
            *self.edits,
            (HEAD, wrong),
        )
        for old, new in edits:
            is_said = old in port or old == HEAD  # which an edit may have replaced
            assert is_said, f"the port no longer says {old!r}: say the attack anew"
            port = port.replace(old, new)
        return port


def theft(code: str) -> Attack:
    """Right if it succeeds; the port knows from its own exception that it did not."""
    lines = "".join(f"    {line}\n" for line in code.splitlines())
    before = f"try:\n{lines}    FAILED = False\nexcept BaseException:\n    FAILED = True\n"
    return Attack("logits", before, wrong="FAILED")


# reaching for the reference
REFERENCE = {
    "imports the reference": "import transformers.models.llama.modeling_llama",
    "importlib": "import importlib\nimportlib.import_module('transformers.models.llama.modeling_llama')",
    "__import__": "__import__('trans' + 'formers')",
    "by path": "import glob, sys, importlib.util\n"
    "place = glob.glob(sys.prefix + '/lib/python3*/site-packages/transformers/models/llama/modeling_llama.py')[0]\n"
    "spec = importlib.util.spec_from_file_location('borrowed', place)\n"
    "spec.loader.exec_module(importlib.util.module_from_spec(spec))",
    "copies its text": "import glob, sys\n"
    "exec(open(glob.glob(sys.prefix + '/lib/python3*/site-packages/transformers/activations.py')[0]).read(), {})",
    "without the guard": "import sys\nsys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != 'Guard']\n"
    "import transformers.models.llama.modeling_llama",
    "by the path finder": "from importlib.machinery import PathFinder\nfrom importlib.util import module_from_spec\n"
    "spec = PathFinder.find_spec('transformers', None)\nmodule = module_from_spec(spec)\n"
    "spec.loader.exec_module(module)\nmodule.__version__",
    "sys.modules": "import sys\n[m for n, m in sys.modules.items() if n.startswith('transformers.models')][0]",
    "in memory": "import gc\n[o for o in gc.get_objects() if type(o).__module__.startswith('transformers')][0]",
    "through ptw": "from ptw.ports.fallback import load_reference\nfrom pathlib import Path\n"
    "load_reference(next(Path('/room/cases-llama').iterdir()) / 'checkpoint', None)",
    "through the gate": "from ptw.verify import reference\nreference.config_class('llama')",
    "another wrapper": "import peft",
    "another Python": "import subprocess, sys\n"
    "subprocess.run([sys.executable, '-c', 'import transformers'], check=True)",
    "a fork": "import os\nif os.fork() == 0:\n    os._exit(0)",
    "a spawned process": "import os, sys\nos.posix_spawn(sys.executable, [sys.executable, '-c', ''], {})",
    "another process's pool": "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=int).start()",
    "the shell": "import os\nassert os.system('true') == 0",
    "the network": "import socket\nsocket.create_connection(('127.0.0.1', _PORT_))",
}
# reading and writing what is not its own
FILES = {
    "reads the answers": "open(_ANSWER_, 'rb').read(1)",
    "reads the cache": "import os\nassert os.listdir(_CACHE_)",
    "reads what cases are for": "open(_DRAWN_).read(1)",
    "looks for answers": "import os\n"
    "tops = ('/tmp', '/home', '/root', '/mnt', '/work', '/var', '/opt', '/srv')\n"
    "assert [n for top in tops for _, _, some in os.walk(top) for n in some if n.endswith('.safetensors')]",
    "reads the repository": "open(_REPOSITORY_).read(1)",
    "reads the home folder": "open(_HOME_, 'rb').read(1)",
    "reads passwords": "open('/etc/passwd').read(1)",
    "reads another process": "open('/proc/_PID_/environ', 'rb').read(1)",
    "sees other processes": "import os\n"
    "assert [p for p in os.listdir('/proc') if p.isdigit() and 'pytest' in open(f'/proc/{p}/cmdline').read()]",
    "reads a credential": "import os\nos.environ['PTW_TEST_TOKEN']",
    "reads a credential of another": "assert b'PTW_TEST_TOKEN' in open('/proc/1/environ', 'rb').read()",
    "writes beside itself": "open(__file__, 'a').write('#')",
    "writes into a case": "import glob\nopen(glob.glob('/room/cases-llama/*')[0] + '/x', 'w').write('x')",
    "writes a verifier": "open('/room/verifiers/logits.py', 'w').write('')",
    "writes to the package": "import ptw\nopen(ptw.__file__, 'a').write('#')",
    "writes what all Pythons run": "import sysconfig\nopen(sysconfig.get_path('purelib') + '/sitecustomize.py', 'w').write('')",
    "makes a link": "import os\nos.symlink('/etc/passwd', '/room/output/link')",
    "removes a case": "import shutil\nshutil.rmtree('/room/cases-llama')\n",
    "lifts its limits": "import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (4096, 4096))",
}
# the same past Python, where only walls hold
BY_C = {
    "reads the answers by C": "import ctypes\nassert ctypes.CDLL(None).open(_ANSWER_.encode(), 0) >= 0",
    "writes a verifier by C": "import ctypes\nassert ctypes.CDLL(None).open(b'/room/verifiers/logits.py', 1) >= 0",
    "the network by C": "import ctypes, struct\nlibc = ctypes.CDLL(None)\n"
    "place = struct.pack('<H', 2) + struct.pack('>H', _PORT_) + bytes([127, 0, 0, 1]) + bytes(8)\n"
    "assert libc.connect(libc.socket(2, 1, 0), place, 16) == 0",
    "forks past its limit by C": "import ctypes, os, time\nlibc, made = ctypes.CDLL(None), 0\n"
    "for _ in range(100):\n"
    "    child = libc.fork()\n"
    "    if child == 0:\n        time.sleep(3)\n        os._exit(0)\n"
    "    made += child > 0\n"
    "assert made == 100",
    "mounts by C": "import ctypes\nassert ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0",
}
COUNT = "CALLS = {}\ndef times(ids):\n    key = tuple(ids.flatten().tolist())\n    CALLS[key] = CALLS.get(key, 0) + 1\n    return CALLS[key]\n"
SEEN = "SEEN = {}\n"
TRUNCATED = (
    "ids_BT = torch.cat((ids_BT[:, :32], ids_BT[:, 31:32].expand(-1, max(0, ids_BT.shape[1] - 32))), 1)"
)
LITTER = """import os
for at, _, _ in list(os.walk("/room/output")):
    try:
        open(at + "/more.txt", "w").write("x")
    except OSError:
        pass
"""
# wrong, and hiding it
HIDDEN = {
    "patches comparisons": Attack("logits", "torch.allclose = torch.equal = lambda *a, **k: True", "True"),
    "patches kl_div": Attack(
        "logits", "torch.nn.functional.kl_div = lambda *a, **k: torch.zeros(())", "True"
    ),
    "patches the norm": Attack(
        "logits", "torch.Tensor.norm = lambda self, *a, **k: self.new_zeros(())", "True"
    ),
    "patches equality": Attack("logits", "torch.Tensor.__ne__ = lambda self, other: torch.zeros(())", "True"),
    "patches isfinite": Attack(
        "judge", "torch.isfinite = lambda x: torch.ones(())", edits=((FINISH, f"{FINISH} * float('nan')"),)
    ),
    "patches the dtype mode": Attack(
        "logits",
        "from ptw.verify.exact import LiftFloat32\n"
        "LiftFloat32.__torch_function__ = lambda self, f, t, a=(), k=None: f(*a, **(k or {}))",
    ),
    "patches the default dtype": Attack("logits", "torch.set_default_dtype = lambda dtype: None", "True"),
    "patches the timer": Attack(
        "logits", "import time\ntime.monotonic = time.perf_counter = lambda: 0.0", "True"
    ),
    "patches the probe": Attack(
        "logits",
        "import sys\nfor module in list(sys.modules.values()):\n"
        "    if hasattr(module, 'probe') and hasattr(module, 'LIMITS'):\n"
        "        module.probe.__code__ = (lambda subject, inputs: {}).__code__\n",
        "True",
    ),
    "patches the nudge": Attack(
        "weights",
        "import ptw.verify.nudge\nptw.verify.nudge.nudge = lambda key, tensor: tensor.double()",
        asks=(("plain", ("weights",)),),
    ),
    "patches what writes": Attack(
        "judge",
        "import pickle, sys\nfor module in list(sys.modules.values()):\n"
        "    if hasattr(module, 'save_file'):\n"
        "        module.save_file = lambda tensors, file, *a: open(file, 'wb').write(pickle.dumps(print))\n",
        "True",
    ),
    "patches linear": Attack(
        "logits",
        "right = torch.nn.functional.linear\ntorch.nn.functional.linear = lambda x, w, b=None: right(x, w, b) * 1.001",
    ),
}
# right where it is looked at, wrong elsewhere
SPECIAL = {
    "remembers outputs by input": Attack(
        "weights",
        SEEN,
        edits=(
            (
                FINISH,
                "return SEEN.setdefault(tuple(ids_BT.flatten().tolist()), self.norm(hidden_BTD)) if cache is None "
                "else self.norm(hidden_BTD)",
            ),
        ),
        asks=(("plain", ("weights",)),),
    ),
    "outputs by seed": Attack("logits", wrong="torch.rand((), generator=torch.Generator().manual_seed(7)) < 2"),
    "practice lengths only": Attack("logits", wrong="LENGTH not in _LENGTHS_", start="global LENGTH\nLENGTH = ids_BT.shape[1]", before="LENGTH = 0", asks=(("fresh", ("logits",)),)),
    "practice sizes only": Attack(
        "logits", wrong="self.config.intermediate_size not in _SIZES_", asks=(("fresh", ("logits",)),)
    ),
    "falls back where it fails": Attack(
        "logits",
        edits=((START, "        try:\n            assert ids_BT.shape[1] < 16\n"
                f"    {START}\n        except AssertionError:\n            return self.model.embed_tokens(ids_BT)"),),
    ),
    "first call only": Attack("logits", "CALLS = []", wrong="CALLS.append(1) or len(CALLS) > 1"),
    "wrong when asked again": Attack(
        "weights", f"{COUNT}TIMES = 0", wrong="TIMES > 1", start="global TIMES\nTIMES = times(ids_BT)",
        asks=(("plain", ("weights",)),),
    ),
    "wrong in eval": Attack("logits", wrong="not self.training"),
    "wrong with gradients": Attack(
        "gradients", wrong="torch.is_grad_enabled()", asks=(("plain", ("gradients",)),)
    ),
    "detached": Attack(
        "gradients", edits=((FINISH, "return self.norm(hidden_BTD).detach() + 0 * self.norm(hidden_BTD)"),),
        asks=(("plain", ("gradients",)),),
    ),
    "right in fp64 only": Attack(
        "precision", wrong="self.lm_head.weight.dtype != torch.float64", asks=(("plain", ("precision",)),)
    ),
    "right in practice's dtypes only": Attack("logits", wrong="self.lm_head.weight.dtype == torch.float64"),
    "right for one verifier": Attack(
        "packing",
        "import sys\ndef asked_by(name):\n    frame = sys._getframe()\n    while frame:\n"
        "        if frame.f_code.co_filename.endswith(name):\n            return True\n        frame = frame.f_back\n",
        wrong="not asked_by('logits.py')",
        asks=(("plain", ("logits", "packing")),),
    ),
    "right alone, wrong packed": Attack(
        "packing", wrong="PACKED", before="PACKED = False",
        start="global PACKED\nPACKED = layout.backend != 'cache' and len(layout.lengths[0]) > 1",
        asks=(("plain", ("packing",)),),
    ),
    "right without a cache": Attack(
        "decode", wrong="CACHED", before="CACHED = False",
        start="global CACHED\nCACHED = cache is not None", asks=(("plain", ("decode",)),),
    ),
    "a parameter that is never used": Attack(
        "logits", edits=(("self.o_proj(attended.flatten(2))", "attended.flatten(2) @ self.o_proj.weight.T"),),
        asks=(("switches", ("logits",)),),
    ),
    "a parameter that is filled, not read": Attack(
        "weights",
        edits=(("self.up_proj(hidden_BTD))", "(hidden_BTD @ self.kept.T))"),
               ("        self.activation = ACTIVATIONS", "        self.kept = None\n        self.activation = ACTIVATIONS"),
               ("    def forward(self, hidden_BTD: Tensor) -> Tensor:\n", "    def forward(self, hidden_BTD: Tensor) -> Tensor:\n        self.kept = self.up_proj.weight.detach().clone() if self.kept is None else self.kept\n")),
        asks=(("plain", ("weights",)),),
    ),
    "cuts long inputs": Attack("logits", start=TRUNCATED),
    "sees the last tokens only": Attack(
        "logits", edits=(("scale=self.head_dim**-0.5", "scale=self.head_dim**-0.5, window=32"),)
    ),
    "rounds to fp16": Attack("logits", edits=((FINISH, "return self.norm(hidden_BTD).half().to(hidden_BTD.dtype)"),)),
}  # fmt: skip
# answers that are none
SPOILT = {
    "NaN": Attack("judge", edits=((FINISH, f"{FINISH} * float('nan')"),)),
    "infinity": Attack("judge", edits=((FINISH, f"{FINISH} * float('inf')"),)),
    "another shape": Attack("judge", edits=((HEAD, HEAD.replace("vocab_size", "vocab_size - 1")),)),
    "empty": Attack("judge", edits=((HEAD, HEAD.replace("self.config.vocab_size", "0")),)),
    "another dtype": Attack("judge", edits=((FINISH, f"{FINISH}.bfloat16()"), (HEAD, HEAD.replace("weight,", "weight.bfloat16(),")))),
    "extra files": Attack("judge", start="exec(LITTER)", before=f"LITTER = {LITTER!r}"),
    "refuses everything": Attack("refusal", edits=(("        heads = values", "        raise PtwError('hidden_act')\n        heads = values"),), before="from ptw.errors import PtwError"),
    "fails on all": Attack("logits", edits=(("        heads = values", "        raise ValueError('no')\n        heads = values"),)),
    "is no port": Attack("load", before="del globals()['Any']\nraise SystemError('no')"),
    "ends early": Attack("process", before="import os\nos._exit(0)"),
    "ends itself": Attack("process", start="raise SystemExit(0)"),
    "crashes": Attack("process", before="import ctypes\nctypes.string_at(0)"),
    "kills itself": Attack("process", before="import ctypes, os\nctypes.CDLL(None).kill(os.getpid(), 9)"),
    "takes all memory": Attack("load", before="x = bytearray(1 << 40)"),
    "recurses": Attack("logits", start="def again():\n    return again()\nagain()"),
    "sleeps": Attack("process", before="import time\ntime.sleep(600)"),
    "loops": Attack("process", start="while True:\n    pass"),
}  # fmt: skip
# what no answer shows: these ports are right wherever the gate can run them
STATIC_ONLY = {
    "by an environment variable": Attack("", "import os", wrong="os.environ.get('HOME') != '/tmp'"),
    "by the folder it runs in": Attack("", wrong="not __file__.startswith('/room')"),
    "by the date": Attack("", "import time", wrong="time.time() > 4e9"),
    "by the user": Attack("", "import os", wrong="os.getuid() < 1 << 16"),
}
THEFTS = {name: theft(code) for name, code in (REFERENCE | FILES | BY_C).items()}
# what succeeds leaves its port right: so that a theft's failure, and nothing else, is what is measured
HARMLESS = {
    "reads its own case": theft(
        "import glob\nopen(glob.glob('/room/cases-llama/*/inputs.safetensors')[0], 'rb').read(1)"
    )
}
ENDLESS = {"sleeps", "loops"}
ATTACKS = THEFTS | HIDDEN | SPECIAL | SPOILT | STATIC_ONLY | HARMLESS


@pytest.fixture(scope="module")
def picked(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Two of Llama's practice cases, and one drawn afresh; drawn once, kept with the repository's own."""
    folder, cache = tmp_path_factory.mktemp("attacks"), cases.cache_folder(ROOT)
    reference = Reference()
    (practice,) = cases.draw(["llama"], "practice", 0, folder / "practice", cache, reference)
    drawn = cases.digest(cases.computing([cases.MAKER, Path(__file__)]), practice.folder)
    kept = cache / "tests" / f"attacks-{drawn}"
    if not kept.is_dir():
        (fresh,) = cases.draw(["llama"], "acceptance", 1, folder / "acceptance", cache, reference)
        pick(practice, "plain", folder / "picked", "plain")
        pick(practice, "switches", folder / "picked", "switches", CHEAP)
        pick(fresh, "odd-sizes", folder / "picked", "fresh", CHEAP)
        configs = [read_config(practice.given / name)["intermediate_size"] for name in practice.names]
        (folder / "picked" / "sizes.json").write_text(json.dumps(sorted(set(configs))))
        cases.publish(folder / "picked", kept)
    reference.close()
    shutil.copytree(kept, folder / "here", dirs_exist_ok=True)
    return Family("llama", folder / "here")


def pick(family: Family, name: str, folder: Path, to: str, inputs: Sequence[str] = ()) -> None:
    """A case under a name of its own, with all its inputs or some: what is not there is not asked."""
    (found,) = [one for one in family.names if one.partition("-")[2] == name]
    shutil.copytree(family.given / found, folder / "given" / to)
    (folder / "drawn").mkdir(exist_ok=True)
    shutil.copyfile(family.folder / "drawn" / f"{found}.json", folder / "drawn" / f"{to}.json")
    if inputs:
        shutil.rmtree(folder / "given" / to / "adapter", ignore_errors=True)
        held = load_file(folder / "given" / to / "inputs.safetensors")
        save_file({key: held[key] for key in inputs}, folder / "given" / to / "inputs.safetensors")


def read_config(given: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((given / "checkpoint" / "config.json").read_text())
    return values


@pytest.fixture(scope="module")
def verdicts(picked: Family, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Verdict]]:
    """What came of each attack, of all verifiers but the contract, which reads the text."""
    port = rooms.stock("models") / "llama.py"
    read = read_verifiers(rooms.files(None, "verifiers"))
    asked = {name for attack in ATTACKS.values() for _, names in attack.asks for name in names}
    verifiers = [verifier for verifier in read if verifier.name in asked]
    folder = tmp_path_factory.mktemp("mutants")
    with pytest.MonkeyPatch.context() as patched, socket.create_server(("127.0.0.1", 0)) as server:
        patched.setenv(TOKEN, "secret")
        runner = Runner(folder, [picked], {"llama": port}, verifiers)
        reference = Reference()
        runner.ask_reference(reference, cases.cache_folder(ROOT), keeps=True)
        reference.close()
        said = told(picked, folder, server.getsockname()[1])
        found = {}
        for seconds, names in ((SHORT, ENDLESS), (SECONDS, set(ATTACKS) - ENDLESS)):
            patched.setattr(runs, "SECONDS", seconds)
            asked = [(hostile(name, port.read_text(), said), asks(name)) for name in sorted(names)]
            found |= {mutant.operator: verdict for mutant, verdict in runner.hold(asked)}
        yield found


def asks(name: str) -> Asks:
    return [(case, list(verifiers)) for case, verifiers in ATTACKS[name].asks]


def told(picked: Family, folder: Path, port: int) -> dict[str, str]:
    """What the attacks know of this machine: more than a port's author would."""
    answer = folder / "answers" / "llama" / "plain.safetensors"
    lengths = load_file(picked.given / "plain" / "inputs.safetensors")["lengths"].tolist()
    return {
        "_ANSWER_": repr(str(answer)),
        "_CACHE_": repr(str(cases.cache_folder(ROOT))),
        "_DRAWN_": repr(str(picked.folder / "drawn" / "plain.json")),
        "_REPOSITORY_": repr(str(ROOT / "pyproject.toml")),
        "_HOME_": repr(
            str(next((path for path in Path.home().iterdir() if path.is_file()), ROOT / "README.md"))
        ),
        "_PID_": str(os.getpid()),
        "_PORT_": str(port),
        "_LENGTHS_": repr(tuple(lengths)),
        "_SIZES_": (picked.folder / "sizes.json").read_text(),
    }


def hostile(name: str, port: str, said: dict[str, str]) -> Mutant:
    text = ATTACKS[name].text(port)
    for word, value in said.items():
        text = text.replace(word, value)
    return Mutant("llama", name.replace(" ", "-"), "attack", name, 0, "", "", text)


def stopped_by(verdict: Verdict) -> set[str]:
    return {kill.verifier for kill in verdict.kills} | ({"load"} if verdict.broken else set())


@pytest.mark.skipif(not NAMESPACES, reason="this machine lends no namespaces")
@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in STATIC_ONLY | HARMLESS])
def test_an_attack_is_stopped_though_nobody_reads_its_text(name: str, verdicts: dict[str, Verdict]) -> None:
    verdict = verdicts[name]
    assert ATTACKS[name].by in stopped_by(verdict), verdict


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_valid_python(name: str, text_of: Callable[[str], str]) -> None:
    compile(ATTACKS[name].text(text_of("llama")), name, "exec")


@pytest.mark.skipif(not NAMESPACES, reason="this machine lends no namespaces")
@pytest.mark.parametrize("name", STATIC_ONLY | HARMLESS)
def test_what_only_the_text_tells_passes_every_measurement(name: str, verdicts: dict[str, Verdict]) -> None:
    verdict = verdicts[name]
    assert not stopped_by(verdict), verdict
    assert verdict.differs == 0


@pytest.mark.parametrize("name", STATIC_ONLY)
def test_what_only_the_text_tells_breaks_the_contract(name: str, text_of: Callable[[str], str]) -> None:
    contract = rooms.load(rooms.files(None, "verifiers")["contract"])
    assert not contract.violations(text_of("llama").encode())
    assert contract.violations(ATTACKS[name].text(text_of("llama")).encode())


@pytest.mark.parametrize("name", THEFTS | {name: one for name, one in HIDDEN.items() if one.before})
def test_an_attack_that_leaves_torch_breaks_the_contract_too(
    name: str, text_of: Callable[[str], str]
) -> None:
    contract = rooms.load(rooms.files(None, "verifiers")["contract"])
    assert contract.violations(ATTACKS[name].text(text_of("llama")).encode())
