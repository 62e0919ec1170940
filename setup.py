"""Builds `pcl_kernels._C`: C++ on raw pointers, no torch headers, so that setuptools and nanobind suffice.

* `csrc/*.cpp` is compiled once; a file with a `namespace pcl::PCL_ISA` is compiled once per instruction set
  (see csrc/isa.hpp), each time as a translation unit of its own.
* `csrc/cuda/*.cu` joins in where nvcc is found.

Environment:
  PCL_CUDA=0|1        leave the CUDA sources out | fail where nvcc is missing (default: use nvcc if found)
  PCL_CUDA_ARCHS      chips to make machine code for, such as "80 90"; fewer are sooner built
  CUDA_HOME           where to look for bin/nvcc besides PATH
  CXX, CXXFLAGS       another compiler, further flags
  PCL_SANITIZE=...    build with -fsanitize=..., for instance address,undefined
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")

# The order matters: the linker keeps the first copy of an inline function that several units define, so
# going from small to large instruction sets never hands a unit code that its processor may lack.
ISA_FLAGS: dict[str, list[str]] = {"baseline": ["-DPCL_BASELINE"]}
if IS_X86:
    ISA_FLAGS["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    ISA_FLAGS["avx512"] = [
        *("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"),
        "-mprefer-vector-width=512",
    ]


class BuildError(SystemExit):
    """Ends the build with a message for the person at the keyboard instead of a traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(f"\npcl_kernels could not be built: {message}\n")


def find_cxx() -> list[str]:
    for candidate in (os.environ.get("CXX"), "g++", "c++", "clang++"):
        if candidate and shutil.which(shlex.split(candidate)[0]):
            return shlex.split(candidate)
    raise BuildError(
        "no C++ compiler found (looked for $CXX, g++, c++, clang++).\n"
        "Install one, on Debian or Ubuntu with `apt install g++`, or name yours in CXX, and install again."
    )


def find_nvcc() -> str | None:
    """The path of nvcc, or None where CUDA is switched off or absent."""
    wanted = os.environ.get("PCL_CUDA", "")
    if wanted == "0":
        return None
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=str(Path(home) / "bin"))
    if nvcc is None and wanted == "1":
        raise BuildError(
            f"PCL_CUDA=1 asks for CUDA, but nvcc is neither on PATH nor in {home}/bin.\n"
            "Install the CUDA toolkit (Debian or Ubuntu: `apt install nvidia-cuda-toolkit`), or set\n"
            "CUDA_HOME, or build without CUDA: PCL_CUDA=0 pip install ."
        )
    return nvcc


def cuda_library_dirs(nvcc: str) -> list[str]:
    """Where nvcc itself would link from; asked of nvcc, because the layout differs between packagings."""
    dry = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True)
    text = dry.stderr + dry.stdout
    line = re.search(r"^#\$ LIBRARIES=(.*)$", text, re.M)
    top = re.search(r"^#\$ TOP=(.*)$", text, re.M)
    dirs = re.findall(r"-L([^\"\s]+)", line.group(1)) if line else []
    if top:
        dirs += [f"{top.group(1).strip()}/lib64", f"{top.group(1).strip()}/lib"]
    return [d for d in dirs if Path(d, "libcudart_static.a").exists()]


def cuda_arch_flags(nvcc: str) -> list[str]:
    """Machine code for the chips that were asked for, else for Volta or Turing, Ampere and Hopper, as this nvcc knows
    them; PTX for what follows."""
    listed = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True).stdout.split()
    known = os.environ.get("PCL_CUDA_ARCHS", "").split()
    if missing := [a for a in known if f"sm_{a}" not in listed]:
        raise BuildError(
            f"PCL_CUDA_ARCHS asks for {' '.join(missing)}, which {nvcc} does not know.\n"
            f"It knows {' '.join(a.removeprefix('sm_') for a in listed)}."
        )
    if not known:
        known = [a for a in ("70", "75", "80", "90") if f"sm_{a}" in listed] or ["80"]
        if "70" in known:
            known.remove("75")
    flags = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in known]
    return [*flags, f"-gencode=arch=compute_{known[-1]},code=compute_{known[-1]}"]


@dataclass
class Unit:
    """One translation unit: the whole command that makes `obj` from `src`."""

    src: Path
    obj: Path
    command: list[str]

    def stale(self, newest_header: float) -> bool:
        stamp = self.obj.with_suffix(".cmd")
        if not self.obj.exists() or not stamp.exists() or stamp.read_text() != json.dumps(self.command):
            return True
        return self.obj.stat().st_mtime < max(newest_header, self.src.stat().st_mtime)

    def compile(self) -> None:
        run(self.command, f"compiling {os.path.relpath(self.src, ROOT)}")
        self.obj.with_suffix(".cmd").write_text(json.dumps(self.command))


def run(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    output = (done.stdout + done.stderr).strip()
    if done.returncode:
        print(shlex.join(command), output, sep="\n", file=sys.stderr)
        raise BuildError(advice(command, output, what))
    if output:
        print(output, file=sys.stderr)


def advice(command: list[str], output: str, what: str) -> str:
    """Turn the usual failures into the step that repairs them."""
    if "Python.h" in output:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return f"the headers of Python {version} are missing. Debian, Ubuntu: `apt install python{version}-dev`."
    if re.search(r"omp\.h|-fopenmp|lgomp|lomp", output):
        return f"{command[0]} has no OpenMP. Use g++ (`apt install g++`), or for clang `apt install libomp-dev`."
    if "nvcc" in Path(command[0]).name:
        return (
            f"{what} with {command[0]} failed (its words are above). Often the CUDA toolkit does not accept\n"
            "this host compiler: install one it does and name it (NVCC_CCBIN=g++-12), or build without:\n"
            "PCL_CUDA=0 pip install ."
        )
    return (
        f"{what} failed (the compiler's words are above).\nA C++17 compiler is needed: g++ >= 9 or "
        "clang++ >= 10. Debian or Ubuntu: `apt install g++`; name another one with CXX=..."
    )


class BuildExtension(build_ext):
    """Compiles all units in parallel, links them in a fixed order."""

    def build_extension(self, ext: Extension) -> None:
        import nanobind

        out = Path(self.get_ext_fullpath(ext.name))
        tmp = Path(self.build_temp) / "pcl_kernels"
        tmp.mkdir(parents=True, exist_ok=True)
        out.parent.mkdir(parents=True, exist_ok=True)

        cxx, nvcc = find_cxx(), find_nvcc()
        sanitize = os.environ.get("PCL_SANITIZE", "")
        debug = [f"-fsanitize={sanitize}", "-g", "-fno-omit-frame-pointer"] if sanitize else []
        flags = ["-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-fno-math-errno"]
        flags += ["-Wall", "-Wextra", *debug, *shlex.split(os.environ.get("CXXFLAGS", ""))]
        includes = [f"-I{d}" for d in (CSRC, *include_dirs(), nanobind.include_dir())]
        # a domain of our own shares nothing with other extensions; of another version, everything is built anew
        flags += ["-DNB_DOMAIN=pcl_kernels", f"-DPCL_NANOBIND={nanobind.__version__}"]

        facts = {
            "PCL_BUILD_COMPILER": first_line([*cxx, "--version"]),
            "PCL_BUILD_FLAGS": " ".join(flags),
            "PCL_BUILD_ISAS": " ".join(ISA_FLAGS),
            "PCL_BUILD_CUDA": last_release(nvcc) if nvcc else "",
        }
        defines = [f"-DPCL_BUILT_{name}" for name in ISA_FLAGS] + (["-DPCL_WITH_CUDA"] if nvcc else [])

        units = [
            Unit(src, obj, [*cxx, *flags, *defines, *extra, *includes, "-c", str(src), "-o", str(obj)])
            for src, obj, extra in cpp_units(tmp, facts)
        ]
        home = Path(nanobind.include_dir()).parent
        src, obj = home / "src" / "nb_combined.cpp", tmp / "nanobind.o"  # all of its own code
        own = [f"-I{home / 'ext' / 'robin_map' / 'include'}", "-fno-strict-aliasing", "-DNDEBUG"]
        units.append(Unit(src, obj, [*cxx, *flags, *own, *includes, "-c", str(src), "-o", str(obj)]))
        if nvcc:
            gpu = [nvcc, "-O3", "-std=c++17", "-Xcompiler=-fPIC,-fvisibility=hidden", f"-I{CSRC}"]
            gpu += cuda_arch_flags(nvcc)
            for src in sorted((CSRC / "cuda").glob("*.cu")):
                obj = tmp / f"{src.stem}.cu.o"
                units.append(Unit(src, obj, [*gpu, "-c", str(src), "-o", str(obj)]))

        newest_header = max(p.stat().st_mtime for p in CSRC.rglob("*") if p.suffix in (".hpp", ".cuh", ".h"))
        stale = [u for u in units if u.stale(newest_header)]
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            list(pool.map(Unit.compile, stale))

        link = [*cxx, "-shared", "-fopenmp", *debug, *(str(u.obj) for u in units), "-o", str(out)]
        if nvcc:
            link += [f"-L{d}" for d in cuda_library_dirs(nvcc)]
            link += ["-lcudart_static", "-ldl", "-lrt", "-lpthread"]
        run(link, "linking")


def cpp_units(tmp: Path, facts: dict[str, str]) -> list[tuple[Path, Path, list[str]]]:
    """(source, object, extra flags), smallest instruction set first (see ISA_FLAGS)."""
    sources = sorted(CSRC.glob("*.cpp"))
    units = []
    for isa, isa_flags in ISA_FLAGS.items():
        for src in sources:
            per_isa = "namespace pcl::PCL_ISA" in src.read_text()
            if per_isa or isa == "baseline":
                # a*b + c may become one instruction in kernels, never where the code counts roundings itself
                contract = f"-ffp-contract={'fast' if per_isa else 'off'}"
                extra = [contract] + ([*isa_flags, f"-DPCL_ISA={isa}"] if per_isa else [])
                if src.name == "bindings.cpp":
                    extra += [f"-D{name}={json.dumps(value)}" for name, value in facts.items()]
                units.append((src, tmp / f"{src.stem}.{isa}.o", extra))
    return units


def include_dirs() -> list[str]:
    import sysconfig

    return sorted({sysconfig.get_path("include"), sysconfig.get_path("platinclude")})


def first_line(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0]


def last_release(nvcc: str) -> str:
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"release ([\d.]+)", text)
    return found.group(1) if found else "unknown"


setup(ext_modules=[Extension("pcl_kernels._C", sources=[])], cmdclass={"build_ext": BuildExtension})
