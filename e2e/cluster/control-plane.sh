# The control plane, part of up: etcd, the API server, the controllers and, with a node, the scheduler.

write_credentials() {
    "$bin/kubernetes" certificates -dir "$dir/certificates" "$api_address" "$(nth_service 1)" localhost \
        kubernetes kubernetes.default kubernetes.default.svc kubernetes.default.svc.cluster.local
    kubeconfig admin "$dir/kubeconfig" system:masters
    kubeconfig system:kube-controller-manager "$dir/config/controller-manager"
    if [ "$node" ]; then
        kubeconfig system:kube-scheduler "$dir/config/scheduler"
        kubeconfig system:node:node1 "$dir/config/kubelet" system:nodes
        kubeconfig system:kube-proxy "$dir/config/proxy"
        kubeconfig cluster:dns "$dir/config/dns"
    fi
}

kubeconfig() { # USER FILE [GROUP]: a token for a user, and the file to use it with
    local token
    token=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
    echo "$token,$1,$1${3:+,\"$3\"}" >>"$dir/certificates/tokens.csv"
    cat >"$2" <<END
apiVersion: v1
kind: Config
current-context: cluster
contexts:
- name: cluster
  context: {cluster: cluster, user: user}
clusters:
- name: cluster
  cluster:
    server: https://$api_address:$api_port
    certificate-authority-data: $(base64 -w0 "$dir/certificates/ca.crt")
users:
- name: user
  user: {token: $token}
END
}

start_control_plane() {
    local certificates=$dir/certificates
    launch etcd "$bin/etcd" --data-dir="$dir/etcd" --client-port="$etcd_port" --peer-port="$peer_port"

    local -a reconcile=()
    # Without a node nobody uses the Service `kubernetes`, and a loopback address may not stand in it.
    [ "$node" ] || reconcile=(--endpoint-reconciler-type=none)
    launch kube-apiserver "$bin/kube-apiserver" \
        --etcd-servers="http://127.0.0.1:$etcd_port" \
        --bind-address="$api_address" --advertise-address="$api_address" --secure-port="$api_port" \
        --tls-cert-file="$certificates/apiserver.crt" --tls-private-key-file="$certificates/apiserver.key" \
        --client-ca-file="$certificates/ca.crt" --token-auth-file="$certificates/tokens.csv" \
        --kubelet-client-certificate="$certificates/kubelet-client.crt" \
        --kubelet-client-key="$certificates/kubelet-client.key" \
        --kubelet-preferred-address-types=InternalIP \
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged \
        --service-account-issuer=https://kubernetes.default.svc.cluster.local \
        --service-account-key-file="$certificates/service-accounts.key" \
        --service-account-signing-key-file="$certificates/service-accounts.key" \
        --service-cluster-ip-range="$service_range" "${reconcile[@]}"
    await "The API server is ready" 240 kube-apiserver kubectl get --raw /readyz

    # One of each, so that leases would only make restarts slow.
    launch kube-controller-manager "$bin/kube-controller-manager" \
        --kubeconfig="$dir/config/controller-manager" --use-service-account-credentials \
        --root-ca-file="$certificates/ca.crt" \
        --service-account-private-key-file="$certificates/service-accounts.key" \
        --cluster-signing-cert-file="$certificates/ca.crt" --cluster-signing-key-file="$certificates/ca.key" \
        --leader-elect=false --secure-port=0
    if [ "$node" ]; then
        launch kube-scheduler "$bin/kube-scheduler" \
            --kubeconfig="$dir/config/scheduler" --leader-elect=false --secure-port=0
    fi
    # Pods are refused until their namespace has its service account.
    await "The controllers work" 240 kube-controller-manager kubectl get serviceaccount default
}

kubectl() {
    "$bin/kubectl" --kubeconfig "$dir/kubeconfig" --request-timeout 5s "$@"
}
