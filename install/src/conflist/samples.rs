// SPDX-License-Identifier: Apache-2.0
//! What primaries write, each in its own style.

/// Name of the file, what it holds.
pub(crate) const SAMPLES: [(&str, &str); 12] = [
    (
        "10-calico.conflist",
        r#"{
  "name": "k8s-pod-network",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "calico",
      "log_level": "info",
      "datastore_type": "kubernetes",
      "nodename": "node-1",
      "mtu": 0,
      "ipam": {
          "type": "calico-ipam"
      },
      "policy": {
          "type": "k8s"
      },
      "kubernetes": {
          "kubeconfig": "/etc/cni/net.d/calico-kubeconfig"
      }
    },
    {
      "type": "portmap",
      "snat": true,
      "capabilities": {"portMappings": true}
    },
    {
      "type": "bandwidth",
      "capabilities": {"bandwidth": true}
    }
  ]
}"#,
    ),
    (
        "05-cilium.conflist",
        "\n{\n  \"cniVersion\": \"0.3.1\",\n  \"name\": \"cilium\",\n  \"plugins\": [\n    {\n       \"type\": \"cilium-cni\",\n       \"enable-debug\": false,\n       \"log-file\": \"/var/run/cilium/cilium-cni.log\"\n    }\n  ]\n}\n",
    ),
    (
        "10-flannel.conflist",
        r#"{
  "name": "cbr0",
  "cniVersion": "1.0.0",
  "plugins": [
    {
      "type": "flannel",
      "delegate": {
        "hairpinMode": true,
        "isDefaultGateway": true
      }
    },
    {
      "type": "portmap",
      "capabilities": {
        "portMappings": true
      }
    }
  ]
}
"#,
    ),
    (
        "10-aws.conflist",
        r#"{
  "cniVersion": "0.4.0",
  "name": "aws-cni",
  "disableCheck": true,
  "plugins": [
    {
      "name": "aws-cni",
      "type": "aws-cni",
      "vethPrefix": "eni",
      "mtu": "9001",
      "podSGEnforcingMode": "strict",
      "pluginLogFile": "/var/log/aws-routed-eni/plugin.log",
      "pluginLogLevel": "DEBUG",
      "capabilities": {"io.kubernetes.cri.pod-annotations": true}
    },
    {
      "name": "egress-cni",
      "type": "egress-cni",
      "mtu": "9001",
      "enabled": "false",
      "randomizeSNAT": "prng",
      "nodeIP": "",
      "ipam": {
         "type": "host-local",
         "ranges": [[{"subnet": "fd00::ac:00/118"}]],
         "routes": [{"dst": "::/0"}],
         "dataDir": "/run/cni/v4pd/egress-v6-ipam"
      },
      "pluginLogFile": "/var/log/aws-routed-eni/egress-v6-plugin.log",
      "pluginLogLevel": "DEBUG"
    },
    {
      "type": "portmap",
      "capabilities": {"portMappings": true},
      "snat": true
    }
  ]
}"#,
    ),
    (
        "10-azure.conflist",
        "{\r\n   \"cniVersion\":\"0.3.0\",\r\n   \"name\":\"azure\",\r\n   \"plugins\":[\r\n      {\r\n         \"type\":\"azure-vnet\",\r\n         \"mode\":\"transparent\",\r\n         \"ipsToRouteViaHost\":[\"169.254.20.10\"],\r\n         \"ipam\":{\r\n            \"type\":\"azure-vnet-ipam\"\r\n         }\r\n      },\r\n      {\r\n         \"type\":\"portmap\",\r\n         \"capabilities\":{\r\n            \"portMappings\":true\r\n         },\r\n         \"snat\":true\r\n      }\r\n   ]\r\n}\r\n",
    ),
    (
        "10-gke-ptp.conflist",
        "{\n  \"name\": \"gke-pod-network\",\n  \"cniVersion\": \"0.3.1\",\n  \"plugins\": [\n    {\n      \"type\": \"ptp\",\n      \"mtu\": 1460,\n      \"ipam\": {\n        \"type\": \"host-local\",\n        \"ranges\": [\n          [{\"subnet\": \"10.8.1.0/24\"}]\n        ],\n        \"routes\": [\n          {\"dst\": \"0.0.0.0/0\"}\n        ]\n      }\n    },{\n      \"type\": \"portmap\",\n      \"capabilities\": {\n        \"portMappings\": true\n      },\n      \"noSnat\": true\n    }\n  ]\n}\n",
    ),
    (
        "10-kindnet.conflist",
        "\n{\n\t\"cniVersion\": \"0.3.1\",\n\t\"name\": \"kindnet\",\n\t\"plugins\": [\n\t{\n\t\t\"type\": \"ptp\",\n\t\t\"ipMasq\": false,\n\t\t\"ipam\": {\n\t\t\t\"type\": \"host-local\",\n\t\t\t\"dataDir\": \"/run/cni-ipam-state\",\n\t\t\t\"routes\": [\n\t\t\t\t{ \"dst\": \"0.0.0.0/0\" }\n\t\t\t],\n\t\t\t\"ranges\": [\n\t\t\t\t[ { \"subnet\": \"10.244.0.0/24\" } ]\n\t\t\t]\n\t\t}\n\t\t,\n\t\t\"mtu\": 1500\n\t},\n\t{\n\t\t\"type\": \"portmap\",\n\t\t\"capabilities\": {\n\t\t\t\"portMappings\": true\n\t\t}\n\t}\n\t]\n}\n",
    ),
    (
        "10-flannel.conflist",
        "{\n  \"name\":\"cbr0\",\n  \"cniVersion\":\"1.0.0\",\n  \"plugins\":[\n    {\n      \"type\":\"flannel\",\n      \"delegate\":{\n        \"hairpinMode\":true,\n        \"forceAddress\":true,\n        \"isDefaultGateway\":true\n      }\n    },\n    {\n      \"type\":\"portmap\",\n      \"capabilities\":{\n        \"portMappings\":true\n      }\n    },\n    {\n      \"type\":\"bandwidth\",\n      \"capabilities\":{\n        \"bandwidth\":true\n      }\n    }\n  ]\n}\n",
    ),
    (
        "00-multus.conflist",
        r#"{"capabilities":{"portMappings":true},"cniVersion":"0.3.1","name":"multus-cni-network","plugins":[{"type":"multus-shim","logLevel":"verbose","clusterNetwork":"/host/etc/cni/net.d/10-flannel.conflist"}]}"#,
    ),
    (
        "10-canal.conflist",
        r#"{ "name": "k8s-pod-network", "cniVersion": "0.3.1", "plugins": [ { "type": "calico", "mtu": 1.45e3, "big": 123456789012345678901234567890, "text": "\u00e9\/\"}]," }, { "type": "portmap" } ] }"#,
    ),
    (
        "10-terway.conflist",
        "{\n    \"plugins\" : [ {\n        \"type\" : \"terway\",\n        \"eniip_virtual_type\" : \"IPVlan\"\n    } ],\n    \"cniVersion\" : \"0.3.0\",\n    \"cniVersion\" : \"0.4.0\",\n    \"name\" : \"terway\"\n}",
    ),
    (
        "10-bridge.conflist",
        "{\"name\":\"net\",\"cniVersions\":[\"0.4.0\",\"1.0.0\",\"1.1.0\"],\"cniVersion\":\"0.4.0\",\"disableGC\":\"true\",\"plugins\":[{\"type\":\"bridge\"},\n{\"type\":\"tuning\",\"sysctl\":{\"net.core.somaxconn\":\"500\"}}\n]}",
    ),
];

/// Primaries that write a single plugin's configuration.
pub(crate) const SINGLE: [(&str, &str); 3] = [
    (
        "00-multus.conf",
        "{ \"cniVersion\": \"0.3.1\", \"name\": \"multus-cni-network\", \"type\": \"multus\", \"kubeconfig\": \"/etc/cni/net.d/multus.d/multus.kubeconfig\", \"delegates\": [ { \"cniVersion\": \"0.3.1\", \"name\": \"cbr0\", \"plugins\": [ { \"type\": \"flannel\" } ] } ] }\n",
    ),
    (
        "80-openshift-network.conf",
        "\n{\n  \"cniVersion\": \"0.3.1\",\n  \"name\": \"openshift-sdn\",\n  \"type\": \"openshift-sdn\",\n  \"x\": 1.0\n}\n",
    ),
    (
        "10-weave.json",
        "\t{\"name\":\"weave\",\"type\":\"weave-net\",\"cniVersion\":\"0.3.0\",\"hairpinMode\":true}",
    ),
];
