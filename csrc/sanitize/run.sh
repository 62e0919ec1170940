#!/bin/sh
# Builds driver.cpp, the files beside it and the C++ core without Python, twice, and runs both:
#   AddressSanitizer and UndefinedBehaviorSanitizer with g++;
#   ThreadSanitizer with clang++, whose OpenMP tells it (through Archer) where threads wait for each other. That
#   of g++ does not, and every barrier would look like a race.
# `run.sh address` and `run.sh thread` do one of them. CSRC=... checks another copy of the sources.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
csrc=${CSRC:-$(dirname "$here")}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export OMP_WAIT_POLICY=passive  # threads that spin while they wait steal time from those that work

need() {
    if command -v "$1" >/dev/null; then return; fi
    if [ "${CI:-}" = true ] && [ "$(id -u)" = 0 ]; then
        apt-get update -qq && apt-get install -qq -y $2 >/dev/null
    else
        echo "run.sh: $1 is missing. Debian, Ubuntu: apt install $2" >&2
        exit 1
    fi
}

# build NAME COMPILER every|one FLAGS...: every instruction set or the baseline alone, with the flags of setup.py; -O1
# keeps reports readable.
build() {
    name=$1 cxx=$2 sets=$3
    shift 3
    mkdir "$out/$name"
    common="$cxx -std=c++17 -O1 -g1 -fno-omit-frame-pointer -fopenmp -fno-math-errno -I$csrc -w $*"
    isas=baseline
    case $sets,$(uname -m) in every,x86_64 | every,amd64) isas="baseline avx2 avx512" common="$common -DPCL_BUILT_avx2 -DPCL_BUILT_avx512" ;; esac
    once="-DPCL_ISA=baseline -ffp-contract=off"
    {
        for isa in $isas; do
            case $isa in
            baseline) set -- ;;
            avx2) set -- -mavx2 -mfma -mf16c ;;
            avx512) set -- -mavx512f -mavx512dq -mavx512bw -mavx512vl -mavx2 -mfma -mf16c -mprefer-vector-width=512 ;;
            esac
            for src in $(grep -l "namespace pcl::PCL_ISA" "$csrc"/*.cpp); do
                echo "$common -DPCL_ISA=$isa -ffp-contract=fast $* -c $src -o $out/$name/$(basename "$src").$isa.o"
            done
        done
        for src in "$csrc/isa.cpp" "$csrc/qp_exact.cpp" "$here"/*.cpp; do
            echo "$common $once -c $src -o $out/$name/$(basename "$src").o"
        done
    } | xargs -P "$(nproc)" -I{} sh -c {}
    $common "$out/$name"/*.o -o "$out/$name/driver"
}

address() {
    need g++ g++
    build address g++ every -fsanitize=address,undefined -fno-sanitize-recover=all
    ASAN_OPTIONS=detect_stack_use_after_return=1:strict_init_order=1 UBSAN_OPTIONS=print_stacktrace=1 \
        "$out/address/driver"
    echo "address, undefined: clean"
}

thread() {
    need clang++ "clang libomp-dev"
    archer=$(dirname "$(readlink -f "$(command -v clang++)")")/../lib/libarcher.so
    [ -e "$archer" ] || need libarcher.so libomp-dev
    build thread clang++ one -fsanitize=thread  # how work is shared does not depend on the instruction set
    OMP_TOOL_LIBRARIES=$archer ARCHER_OPTIONS=verbose=1 \
        TSAN_OPTIONS=ignore_noninstrumented_modules=1:halt_on_error=1 "$out/thread/driver" >"$out/said" 2>&1 ||
        { cat "$out/said" >&2; exit 1; }
    grep -q "Archer detected OpenMP application" "$out/said" ||
        { cat "$out/said" >&2; echo "run.sh: Archer did not join; without it races go unseen or are made up" >&2; exit 1; }
    tail -n 1 "$out/said"
    echo "thread: clean"
}

case ${1:-all} in
all) address && thread ;;
address | thread) $1 ;;
*) echo "usage: run.sh [address|thread]" >&2; exit 2 ;;
esac
