#!/bin/sh
# Runs every fuzz target for $1 each, $2 of them at a time with one worker each.
# Goes on after a failure, and fails at the end.
set -eu
export GO="${GO:-go}"

if [ $# = 4 ]; then # one target: TIME AT_A_TIME PACKAGE TARGET
    said=$("$GO" test -run '^$' -fuzz "^$4\$" -fuzztime "$1" -fuzzminimizetime 10x -parallel 1 "$3" 2>&1) && failed=false || failed=true
    # Go takes the end of its time for a failure now and then, when a worker is in
    # the middle of something: https://go.dev/issue/75804. It found no input.
    if $failed && echo "$said" | grep -qx '    context deadline exceeded' && ! echo "$said" | grep -q 'Failing input'; then
        failed=false
    fi
    if $failed; then
        echo "FAILED $3 $4"
        echo "$said"
        exit 1
    fi
    echo "$3 $4 $(echo "$said" | grep '^fuzz: elapsed' | tail -n 1)"
    exit
fi

for package in $("$GO" list ./...); do
    for target in $("$GO" test -list '^Fuzz' "$package" | grep '^Fuzz'); do
        echo "$package $target"
    done
done | xargs -P "$2" -L 1 "$0" "$1" "$2"
