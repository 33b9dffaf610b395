#!/bin/sh
# Builds stub_amd64.elf, the committed binary, from stub_amd64.S. With an argument, writes it there instead (the freshness check does).
# One writable and executable segment: its page is also where the first records go.
set -eu
cd "$(dirname "$0")"
out=${1:-stub_amd64.elf}
gcc -nostdlib -static -no-pie -Wl,-N,-z,noexecstack,--build-id=none,-Ttext=0x200000100 -s -o "$out" stub_amd64.S
objcopy --remove-section=.note.gnu.property --remove-section=.comment "$out"
chmod 644 "$out"
