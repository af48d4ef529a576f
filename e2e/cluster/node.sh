# The node, part of up: namespaces and network, containerd, the kubelet, kube-proxy and DNS.

# The holder's namespaces, and a veth pair that leads into them. The first number that no other
# cluster here has gives the names and addresses.
make_namespaces() {
    OBSERVERS_CLUSTER=$dir setsid --wait unshare --net --mount --pid --fork --mount-proc --propagation private \
        "$bin/pause" >"$dir/logs/holder.log" 2>&1 </dev/null 9>&- &
    disown
    holder=$(program_below $! "$bin/pause") || fail "no namespaces can be made: $(cat "$dir/logs/holder.log")"
    echo "$holder" >"$dir/pids/holder"
    setting holder "$holder"

    for index in $(seq 0 29); do
        [ "$index" -lt 29 ] || fail "no veth pair can be made: $(ip link add obs0 type veth peer name eth0 netns "$holder" 2>&1)"
        ip link add "obs$index" type veth peer name eth0 netns "$holder" 2>/dev/null && break
    done
    link=obs$index
    setting link "$link"
    pod_range=10.$((100 + index)).0.0/16
    host_address=10.$((140 + index)).0.1
    api_address=10.$((140 + index)).0.2
    service_range=10.$((180 + index)).0.0/16

    ip address add "$host_address/24" dev "$link"
    ip link set "$link" up
    # shellcheck disable=SC2016
    inside sh -euc '
        mount --make-rshared /
        # Folders that programs write to whatever they are told; with the namespace they are gone.
        for folder in /run /var/lib /var/log; do mount -t tmpfs tmpfs $folder; done
        ip link set lo up
        ip address add '"$api_address"'/24 dev eth0
        ip link set eth0 up
        ip route add default via '"$host_address"'
        sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1
    '
    ip route add "$pod_range" via "$api_address"
    ip route add "$service_range" via "$api_address"

    local hierarchy
    while read -r hierarchy; do
        mkdir -p "$hierarchy/$link"
        # Empty ones would hold no process.
        for file in cpuset.cpus cpuset.mems; do
            [ -s "$hierarchy/$file" ] && cat "$hierarchy/$file" >"$hierarchy/$link/$file" || true
        done
    done < <(hierarchies)
}

start_containerd() {
    local plugins=/usr/lib/cni snapshotter=overlayfs
    [ -x $plugins/bridge ] || plugins=/opt/cni/bin
    # An overlay cannot lie on another, as in many containers.
    [ "$(stat -f -c %T "$dir")" != overlayfs ] || snapshotter=native
    cat >"$dir/config/cni/10-bridge.conflist" <<END
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$pod_range"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
END
    # restrict_oom_score_adj: root in a container is often not allowed to lower the score.
    cat >"$dir/config/containerd.toml" <<END
version = 2
root = "$dir/containerd"
state = "/run/containerd"
[grpc]
  address = "$dir/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "cluster.local/pause:1"
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "$snapshotter"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "$plugins"
  conf_dir = "$dir/config/cni"
END
    launch containerd "$(command -v containerd)" --config "$dir/config/containerd.toml"
}

load_image() { # TAR
    "$here/load" "$dir" "$1"
}

start_node() {
    await "containerd answers" 30 containerd load_image "$bin/pause.tar"

    echo "nameserver $(nth_service 10)" >"$dir/config/resolv.conf"
    cat >"$dir/config/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://$dir/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$link
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $dir/certificates/ca.crt}
authorization: {mode: Webhook}
clusterDomain: cluster.local
clusterDNS: [$(nth_service 10)]
resolvConf: $dir/config/resolv.conf
podLogsDir: $dir/logs/pods
volumePluginDir: $dir/kubelet/plugins
# Images cannot be pulled again, and a nearly full disk is no reason to stop.
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%}
END
    launch kubelet "$bin/kubelet" --config="$dir/config/kubelet.yaml" --kubeconfig="$dir/config/kubelet" \
        --root-dir="$dir/kubelet" --cert-dir="$dir/kubelet/pki" --hostname-override=node1 --node-ip="$api_address"

    # Limits of connection tracking belong to the whole machine: left alone.
    cat >"$dir/config/proxy.yaml" <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clientConnection: {kubeconfig: $dir/config/proxy}
hostnameOverride: node1
clusterCIDR: $pod_range
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
END
    launch kube-proxy "$bin/kube-proxy" --config="$dir/config/proxy.yaml"

    dns_manifests | kubectl apply --server-side -f - >/dev/null
    cat >"$dir/config/Corefile" <<END
.:53 {
    bind $api_address
    errors
    ready 127.0.0.1:8181
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        kubeconfig $dir/config/dns
        ttl 5
    }
    cache 5
}
END
    launch coredns "$bin/coredns" -conf "$dir/config/Corefile"

    await "The node is ready" 240 kubelet kubectl wait --for condition=Ready node/node1 --timeout 1s
    await "DNS answers by its service" 240 coredns \
        "$bin/kubernetes" resolve "$(nth_service 10):53" kubernetes.default.svc.cluster.local
}

# DNS runs beside the node, not in a pod, so that its image need not be made.
dns_manifests() {
    cat <<END
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: $(nth_service 10)
  ports:
  - {name: dns, port: 53, protocol: UDP}
  - {name: dns-tcp, port: 53, protocol: TCP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
endpoints: [{addresses: [$api_address]}]
ports:
- {name: dns, port: 53, protocol: UDP}
- {name: dns-tcp, port: 53, protocol: TCP}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: cluster:dns}
rules:
- {apiGroups: [""], resources: [services, pods, namespaces], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: cluster:dns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster:dns}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: cluster:dns}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: cluster:node-proxier}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:node-proxier}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: system:kube-proxy}]
END
}
