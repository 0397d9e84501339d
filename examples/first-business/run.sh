#!/usr/bin/env bash
# The commands of docs/first-business.md, one after the other, with waits in place of a person. From the root of a checkout, where nothing
# else uses the usual addresses:
#
#   bash examples/first-business/run.sh rust|python|http
#
# The last line is "the five steps work".
set -euo pipefail

variant=${1:?"say which: rust, python or http"}
root=$PWD
logs=$(mktemp -d)
started=()

finish() {
    status=$?
    # The last one first: the cluster ends when nobody needs it any more. Not by Ctrl-C's signal: where this script runs in the background,
    # what it starts may ignore that.
    for ((index = ${#started[@]} - 1; index >= 0; index--)); do
        kill "${started[index]}" 2>/dev/null || true
        wait "${started[index]}" 2>/dev/null || true
    done
    if ((status != 0)); then
        tail -n 50 "$logs"/* >&2
    fi
    rm -rf "$logs"
    exit "$status"
}
trap finish EXIT

# Repeats a command until it succeeds; what it printed then is printed.
within() {
    local deadline=$((SECONDS + $1)) output
    shift
    until output=$("$@" 2>>"$logs/within"); do
        if ((SECONDS >= deadline)); then
            echo "not in time: $*" >&2
            return 1
        fi
        sleep 0.2
    done
    echo "$output"
}

# 1: the cluster.
cargo run --release -- up >"$logs/up" 2>&1 &
started+=($!)
within 3600 grep -x ready "$logs/up"

# 2: the server.
case $variant in
rust)
    cargo build --release -p imaccess-example-first-business
    cargo run --release -p imaccess-example-first-business >"$logs/greeter" 2>&1 &
    started+=($!)
    ;;
python)
    cd examples/first-business/python
    python3 -m venv .venv
    .venv/bin/pip install -r requirements.txt
    .venv/bin/python -m grpc_tools.protoc -I ../../../proto --python_out=. --grpc_python_out=. imaccess/v1/business.proto imaccess/v1/push.proto imaccess/v1/link.proto
    .venv/bin/python greeter.py >"$logs/greeter" 2>&1 &
    started+=($!)
    cd "$root"
    ;;
http)
    python3 examples/first-business/python/greeter_http.py >"$logs/greeter" 2>&1 &
    started+=($!)
    ;;
esac

# 3: one entry, in place of one that an earlier run has left.
sed -i '/^- {id: 3, name: greeter/d' .imaccess/businesses.yaml
if [ "$variant" = http ]; then
cat >> .imaccess/businesses.yaml <<'END'
- {id: 3, name: greeter, endpoint: 'http://127.0.0.1:9003', events: true, protocol: http}
END
else
cat >> .imaccess/businesses.yaml <<'END'
- {id: 3, name: greeter, endpoint: 'http://127.0.0.1:9003', events: true}
END
fi

# 4: a call. The parts read the list again within 10 s.
within 10 \
    target/release/imaccess call --business greeter --device alice --data hello >"$logs/reply"
grep -x 'hello to you too, alice!' "$logs/reply"

# 5: a push to a device that is connected.
target/release/imaccess connect --device alice >"$logs/alice" 2>&1 &
started+=($!)
within 30 grep online "$logs/alice"
target/release/imaccess push --device alice --business greeter --data hi
within 30 grep -x hi "$logs/alice"
case $variant in
rust)
    cargo run --release -p imaccess-example-first-business --bin good-morning alice
    ;;
python)
    cd examples/first-business/python
    .venv/bin/python good_morning.py alice
    cd "$root"
    ;;
http)
    curl http://127.0.0.1:8100/v1/businesses/3/push -H 'Content-Type: application/json' -d '{"app": "demo", "devices": ["alice"], "text": "good morning"}'
    ;;
esac
within 30 grep -x 'good morning' "$logs/alice"
within 30 grep -i online "$logs/greeter"
echo 'the five steps work'
