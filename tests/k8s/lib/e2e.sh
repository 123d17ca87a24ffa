# Upstream's end-to-end specs, by their own program.

e2e() {
    local focus=${1:-'\[Feature:NetworkPolicy\]|Netpol'} skip=${K8S_SKIP:-'SCTP|Serial\]|\[Deprecated\]'} folder=$state/e2e status=0
    [ -x "$bin/e2e.test" ] || fail "e2e.test is missing: run tests/k8s/build.sh e2e"
    mkdir -p "$folder"
    echo "k8s: running upstream's specs that match $focus; output in $folder/out.txt"
    in_control e2e.test --kubeconfig "$state/kubeconfig" --provider=skeleton --ginkgo.focus "$focus" --ginkgo.skip "$skip" \
        --ginkgo.no-color --ginkgo.timeout=2h --node-os-distro=custom --disable-log-dump --num-nodes="$K8S_NODES" \
        --report-dir "$folder" >"$folder/out.txt" 2>&1 || status=$?
    grep -E '^ *\[FAIL\]' "$folder/out.txt" | sort -u || true
    grep -E '^(Ran [0-9]+ of|(SUCCESS|FAIL)!)' "$folder/out.txt" || fail "e2e.test ended early: $(tail -n 3 "$folder/out.txt")"
    ! grep -q '^Ran 0 of' "$folder/out.txt" || fail "no spec matches $focus"
    return "$status"
}
