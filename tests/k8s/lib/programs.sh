# Programs that run in the background: started, told apart from whoever has their number later, ended.
#
# `state/run/NAME` is the script that starts one, `state/run/NAME.pid` its process and when that started, `state/log/NAME.log` its output.

# Writes down how a program is started, and starts it.
spawn() {
    local name=$1
    shift
    { printf 'export PATH=%q\ncd %q\nexec' "$PATH" "$state"; printf ' %q' "$@"; echo; } >"$state/run/$name"
    start_program "$name"
}

# When a process started, in ticks since boot; nothing once it has ended, be it a zombie still. Its name may hold blanks and parentheses;
# what follows the last one is fields.
started() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | awk '$1 !~ /[ZX]/ { print $20 }'; }

# The process of a program, if it runs.
pid_of() {
    local pid since
    read -r pid since 2>/dev/null <"$state/run/$1.pid" && [ -n "$since" ] && [ "$(started "$pid")" = "$since" ] && echo "$pid"
}

start_program() {
    local name=$1 pid
    [ -e "$state/run/$name" ] || fail "$name is no program of this cluster: see $state/run"
    if pid_of "$name" >/dev/null; then fail "$name runs already"; fi
    # A session of its own: a signal to this script's group is none of its business.
    setsid bash "$state/run/$name" >>"$state/log/$name.log" 2>&1 </dev/null &
    pid=$!
    echo "$pid $(started "$pid")" >"$state/run/$name.pid"
}

stop_program() {
    local pid
    pid=$(pid_of "$1") || return 0
    kill -9 "$pid" 2>/dev/null || true
    gone() { ! pid_of "$1"; }
    await 10 gone "$1" || fail "$1 (process $pid) does not end"
}

end_programs() {
    local script
    for script in "$state"/run/*; do
        [ ! -e "$script" ] || [[ $script == *.pid ]] || stop_program "${script##*/}"
    done
}

# Takes the cluster down when the process that it was made for has ended.
watch_owner() {
    setsid bash -c 'while kill -0 "$1" 2>/dev/null && [ -d "$2" ]; do sleep 1; done; exec "$3" down' - \
        "$K8S_OWNER" "$state" "$here/cluster.sh" >/dev/null 2>&1 </dev/null &
}
