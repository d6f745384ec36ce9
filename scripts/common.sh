# shellcheck shell=bash
# What the scripts share. To be sourced; leaves the shell in the root of the repository.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n── %s\n' "$*" >&2; }
die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# The first comment of the script is its help.
help() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//;/^[^#]*$/p}' "$0" | sed '/^$/,$d'
  exit 0
}

has_command() { command -v "$1" >/dev/null 2>&1; }
has_header() { printf '#include <%s>\n' "$1" | c++ -I/usr/include/eigen3 -E -x c++ - >/dev/null 2>&1; }

# Whether what a Debian package brings is here already, wherever it came from.
found() {
  case $1 in
    g++) has_command c++ ;;
    ninja-build) has_command ninja ;;
    libeigen3-dev) has_header Eigen/Core ;;
    libxsimd-dev) has_header xsimd/config/xsimd_config.hpp ;;
    rapidjson-dev) has_header rapidjson/rapidjson.h ;;
    libcli11-dev) has_header CLI/Version.hpp ;;
    zlib1g-dev) has_header zlib.h ;;
    libbenchmark-dev) has_header benchmark/benchmark.h ;;
    catch2) has_header catch2/catch.hpp || has_header catch2/catch_session.hpp ;;
    clang-16 | clang-19) has_command "clang++-${1#clang-}" ;;
    libomp-19-dev) [ -e /usr/lib/llvm-19/lib/libomp.so ] ;;
    libclang-rt-19-dev) [ -e /usr/lib/llvm-19/lib/clang/19/lib/linux ] ;;
    python3-venv) python3 -c 'import ensurepip' >/dev/null 2>&1 ;;
    pkg-config) has_command pkg-config ;;
    *) has_command "$1" ;;
  esac
}

# need PACKAGE...: installs those that are missing (Debian 12, Ubuntu 24.04 or newer).
need() {
  local package missing=()
  for package in "$@"; do found "$package" || missing+=("$package"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  has_command apt-get || die "please install: ${missing[*]}"
  say "installing ${missing[*]}"
  local as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}

# configure PRESET [CMAKE ARGUMENT...]: into build/PRESET, or the folder a later -B names.
configure() {
  local preset=$1 launcher=()
  shift
  if has_command ccache; then
    launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
    export CCACHE_SLOPPINESS=pch_defines,time_macros  # what precompiled headers need
  fi
  cmake --preset "$preset" "${launcher[@]}" "$@" >&2
}

build_packages=(g++ cmake ninja-build libeigen3-dev libxsimd-dev rapidjson-dev)
example_packages=(libcli11-dev zlib1g-dev)
test_packages=(catch2 zlib1g-dev python3 pkg-config)
# shellcheck disable=SC2034  # used where this file is sourced
all_packages=("${build_packages[@]}" "${example_packages[@]}" "${test_packages[@]}" libbenchmark-dev)
