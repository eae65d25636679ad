#!/usr/bin/env bash
# Follows docs/GETTING_STARTED.md as a reader does. It runs the `sh` blocks of the page, in order, in one bash,
# in a fresh clone of HEAD. A block fails if one of its commands fails. The comment `<!-- exit: 80 -->` before a
# block says that the block must end with that code instead. Each line of the `text` block after it must be in
# its output: numbers may differ, and `…` stands for any text. At the end the reader's own policy must have
# answered.
#
# Usage: scripts/test_getting_started.sh [--self-test]
#
# --self-test only shows that faults planted in copies of the page are found. A full run does this first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tree=$PWD
page=$tree/docs/GETTING_STARTED.md
limit_s=1800
target=$(realpath --canonicalize-missing "${CARGO_TARGET_DIR:-target}")
# One path for all runs. With a new path each time, cargo would keep another copy of every crate.
clone=$target/getting_started/clone
work=$(mktemp -d)
group=
cloned=

clean_up() {
    [[ -z $group ]] || kill -KILL -- "-$group" 2>/dev/null || true
    rm -rf "$work"
    [[ -z $cloned ]] || rm -rf "$clone"
}
trap clean_up EXIT
trap 'exit 1' INT TERM

# extract PAGE DIRECTORY: writes each block to NN.sh, with NN.exit, NN.line and, if it has one, NN.text.
extract() {
    awk -v directory="$2" '
        /^<!-- exit: [0-9]+ -->$/ && !file { code = $3; next }
        /^```sh$/ && !file {
            base = sprintf("%s/%02d", directory, ++blocks)
            print code + 0 > (base ".exit")
            print NR > (base ".line")
            code = 0
            file = base ".sh"
            next
        }
        /^```text$/ && !file && blocks { file = base ".text"; next }
        /^```$/ && file { close(file); file = ""; next }
        /^```/ && !file { print FILENAME ":" NR ": a block must be sh or text" > "/dev/stderr"; failed = 1 }
        file { print > file }
        END {
            if (file) { print FILENAME ": the last block has no end" > "/dev/stderr"; failed = 1 }
            if (!blocks) { print FILENAME ": no sh block" > "/dev/stderr"; failed = 1 }
            exit failed
        }' "$1"
}

# driver DIRECTORY: prints one script with all blocks.
driver() {
    cat <<'HEAD'
exec 3>&1
failed() {
    printf 'step %s (line %s): exit code %s: %s\n' "$step_" "$line_" "$1" "$2" >&3
    tail -n 20 "$output_" | sed 's/^/    /' >&3
    exit 1
}
ended() {
    exec >&3 2>&3
    [[ $1 == "$2" ]] || failed "$1" "the block had to end with $2"
    printf 'step %s (line %s): ok after %s s\n' "$step_" "$line_" "$SECONDS"
}
HEAD
    local block base
    for block in "$1"/*.sh; do
        base=${block%.sh}
        bash -n "$block" || return 1
        printf 'step_=%s line_=%s output_=%q\n' "${base##*/}" "$(cat "$base.line")" "$base.out"
        printf 'exec >"$output_" 2>&1\n'
        if [[ $(cat "$base.exit") == 0 ]]; then
            printf "trap 'failed \"\$?\" \"\$BASH_COMMAND\"' ERR\n"
        fi
        cat "$block"
        printf 'ended "$?" %s\ntrap - ERR\n' "$(cat "$base.exit")"
    done
}

# Every number becomes 0 and every run of blanks one blank.
normalized() {
    sed -E 's/[0-9]+([.:][0-9]+)*/0/g; s/[[:blank:]]+/ /g'
}

# shown DIRECTORY: checks that each line of the text blocks is in the output of its block.
shown() {
    local text base line pattern result=0
    for text in "$1"/*.text; do
        [[ -e $text ]] || continue
        base=${text%.text}
        normalized <"$base.out" >"$base.normalized"
        while IFS= read -r line; do
            pattern=$(printf '%s\n' "$line" | normalized | sed -E 's/[][\.*^$+?(){}|]/\\&/g; s/…/.*/g; s/ $//')
            if ! grep -qE -- "^$pattern *\$" "$base.normalized"; then
                printf 'step %s: the page shows a line that is not printed: %s\n' "${base##*/}" "$line"
                sed 's/^/    /' "$base.out"
                result=1
            fi
        done < <(grep . "$text")
    done
    return "$result"
}

# answered DIRECTORY: checks the end state.
answered() {
    if ! grep -qE '^policy +policy +[1-9]' "$1"/*.out; then
        echo "no tap reports an action of the policy"
        return 1
    fi
    if ! grep -qE '^  policy +backend [a-z]+, reversion, bundle' "$1"/*.out; then
        echo "no status shows the reader's bundle"
        return 1
    fi
}

# follow PAGE FOLDER NAME: runs the page in FOLDER and checks everything.
follow() {
    local blocks=$work/$3 code=0
    mkdir -p "$blocks" "$work/tmp"
    extract "$1" "$blocks" || return 1
    driver "$blocks" >"$blocks/driver" || return 1
    # timeout makes a process group of its own, so that everything the page left running can be ended.
    (
        cd "$2"
        export CARGO_TARGET_DIR=$target TMPDIR=$work/tmp
        exec timeout --kill-after=5 "$limit_s" bash "$blocks/driver" </dev/null
    ) &
    group=$!
    wait "$group" || code=$?
    kill -KILL -- "-$group" 2>/dev/null || true
    group=
    [[ $code != 124 ]] || echo "the page took more than $limit_s s"
    [[ $code == 0 ]] && shown "$blocks" && answered "$blocks"
}

# planted WHAT EXPECTED: the page on standard input must fail, and the report must contain EXPECTED.
planted() {
    cat >"$work/planted.md"
    if follow "$work/planted.md" "$work" planted >"$work/report" 2>&1; then
        echo "test_getting_started: not found: $1"
        exit 1
    fi
    if ! grep -qF -- "$2" "$work/report"; then
        echo "test_getting_started: found for another reason: $1"
        cat "$work/report"
        exit 1
    fi
    rm -rf "$work/planted"
}

small_page() {
    cat <<'PAGE'
```sh
name=reversion
```
```sh
printf 'policy        policy   %s  100.00 %%\n' 12
printf '  policy       backend native, %s, bundle, sha256 ab\n' "$name"
```
```text
policy        policy   34  …
```
<!-- exit: 80 -->
```sh
(exit 80)
```
PAGE
}

self_test() {
    small_page >"$work/good.md"
    if ! follow "$work/good.md" "$work" good >"$work/report" 2>&1; then
        echo "test_getting_started: a good page fails"
        cat "$work/report"
        exit 1
    fi
    sed '0,/^cargo build/s//false; cargo build/' "$page" | planted "a failing command in the page" ": false"
    small_page | sed 's/^name=/false\nname=/' | planted "a failing command before a good one" ": false"
    small_page | sed 's/^name=.*/false \&\& true/' |
        planted "a block that ends with a failure" "had to end with 0"
    small_page | sed 's/^(exit 80)/true/' |
        planted "another exit code than the page's" "had to end with 80"
    small_page | sed 's/^policy  .*/policy policy many/' |
        planted "a line that is not printed" "policy policy many"
    small_page | sed "s/%%.n' 12/%%\\\\n' 0/" | planted "a policy that never answered" "no tap reports"
    small_page | sed 's/^name=.*/name=other/' | planted "another bundle" "no status shows"
    small_page | sed 's/^name=.*/if true; then/' | planted "a block that is no bash" "syntax error"
    small_page | sed 's/^```sh/```bash/' | planted "a block of another kind" "must be sh or text"
}

self_test
if [[ ${1:-} == --self-test ]]; then
    echo "test_getting_started: every planted fault was found"
    exit
fi

mkdir -p "${clone%/*}"
exec 9>"${clone%/*}/lock"
flock 9
rm -rf "$clone"
cloned=yes
git clone --quiet "$tree" "$clone"
if [[ -n $(git status --porcelain) ]]; then
    echo "test_getting_started: HEAD is cloned, without the changes that are not committed"
fi
if follow "$page" "$clone" page 9>&-; then
    echo "test result: ok. 1 passed; 0 failed; 0 ignored (docs/GETTING_STARTED.md, as written)"
else
    echo "test result: FAILED. 0 passed; 1 failed; 0 ignored (docs/GETTING_STARTED.md, as written)"
    exit 1
fi
