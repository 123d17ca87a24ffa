# The cluster's certificate authority, what it signs, and kubeconfigs.

# Openssl was unpacked, not installed: it has no configuration of its own.
export OPENSSL_CONF=$state/pki/openssl.cnf

# Elliptic curves: keys are made in milliseconds.
new_key() { openssl ecparam -name prime256v1 -genkey -noout 2>/dev/null | openssl pkcs8 -topk8 -nocrypt -out "$1"; }

authority() {
    mkdir -p "$state/pki"
    cat >"$state/pki/openssl.cnf" <<INI
[req]
distinguished_name = subject
x509_extensions = authority
[subject]
[authority]
basicConstraints = critical, CA:true
subjectKeyIdentifier = hash
keyUsage = critical, keyCertSign, cRLSign
INI
    new_key "$state/pki/ca.key"
    openssl req -x509 -new -key "$state/pki/ca.key" -out "$state/pki/ca.crt" -days 30 -subj /CN=tortie-tests
    # What tokens of service accounts are signed with.
    new_key "$state/pki/accounts.key"
    openssl ec -in "$state/pki/accounts.key" -pubout -out "$state/pki/accounts.pub" 2>/dev/null
}

# issue FILE SUBJECT [ALTERNATIVE NAMES]
issue() {
    local file=$state/pki/$1
    new_key "$file.key"
    openssl req -new -key "$file.key" -subj "$2" |
        openssl x509 -req -CA "$state/pki/ca.crt" -CAkey "$state/pki/ca.key" -set_serial "0x$(openssl rand -hex 8)" -days 30 \
            -extfile <(printf 'extendedKeyUsage=clientAuth,serverAuth\nsubjectAltName=%s\n' "${3:-DNS:localhost}") -out "$file.crt" 2>/dev/null
}

# kubeconfig FILE USER: USER as YAML, what proves who the client is.
kubeconfig() {
    cat >"$1" <<YAML
apiVersion: v1
kind: Config
current-context: tests
contexts: [{name: tests, context: {cluster: tests, user: tests}}]
clusters: [{name: tests, cluster: {server: "https://$(cat "$state/endpoint")", certificate-authority-data: $(base64 -w0 <"$state/pki/ca.crt")}}]
users: [{name: tests, user: {$2}}]
YAML
    chmod 600 "$1"
}

# A kubeconfig for a component by a certificate of its own: credentials FILE CERTIFICATE
credentials() {
    kubeconfig "$1" "client-certificate-data: $(base64 -w0 <"$state/pki/$2.crt"), client-key-data: $(base64 -w0 <"$state/pki/$2.key")"
}

# The kubeconfig of a service account, with a token as long as the API server gives them.
account_kubeconfig() {
    local file
    file=$(mktemp)
    kubeconfig "$file" "token: $(as_admin create token -n "$1" "$2" --duration 24h)"
    cat "$file"
    rm "$file"
}
