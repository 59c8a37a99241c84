package main

// Rancher's management.cattle.io/v3 as its Go types have it (pkg/apis/management.cattle.io/v3 of
// rancher/rancher), as far as the objects of a fleet fill it: whole nodes with the NodeSpec and
// NodeStatus of Kubernetes inside. An informer of such types holds every field of every object.

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
)

var groupVersion = schema.GroupVersion{Group: "management.cattle.io", Version: "v3"}

type Condition struct {
	Type               string                 `json:"type"`
	Status             corev1.ConditionStatus `json:"status"`
	LastUpdateTime     string                 `json:"lastUpdateTime,omitempty"`
	LastTransitionTime string                 `json:"lastTransitionTime,omitempty"`
	Reason             string                 `json:"reason,omitempty"`
	Message            string                 `json:"message,omitempty"`
}

type CustomConfig struct {
	Address         string            `json:"address,omitempty"`
	InternalAddress string            `json:"internalAddress,omitempty"`
	User            string            `json:"user,omitempty"`
	DockerSocket    string            `json:"dockerSocket,omitempty"`
	SSHKey          string            `json:"sshKey,omitempty"`
	SSHCert         string            `json:"sshCert,omitempty"`
	Label           map[string]string `json:"label,omitempty"`
	Taints          []string          `json:"taints,omitempty"`
}

type MetadataUpdate struct {
	Labels      MapDelta `json:"labels,omitempty"`
	Annotations MapDelta `json:"annotations,omitempty"`
}

type MapDelta struct {
	Add    map[string]string `json:"add,omitempty"`
	Delete map[string]bool   `json:"delete,omitempty"`
}

type NodeSpec struct {
	CustomConfig         *CustomConfig   `json:"customConfig,omitempty"`
	Imported             bool            `json:"imported,omitempty"`
	Description          string          `json:"description,omitempty"`
	DisplayName          string          `json:"displayName,omitempty"`
	RequestedHostname    string          `json:"requestedHostname,omitempty"`
	InternalNodeSpec     corev1.NodeSpec `json:"internalNodeSpec"`
	ControlPlane         bool            `json:"controlPlane,omitempty"`
	Etcd                 bool            `json:"etcd,omitempty"`
	Worker               bool            `json:"worker,omitempty"`
	NodeTemplateName     string          `json:"nodeTemplateName,omitempty"`
	NodePoolName         string          `json:"nodePoolName,omitempty"`
	UpdateTaintsFromAPI  *bool           `json:"updateTaintsFromAPI,omitempty"`
	DesiredNodeTaints    []corev1.Taint  `json:"desiredNodeTaints,omitempty"`
	DesiredNodeUnschedul string          `json:"desiredNodeUnschedulable,omitempty"`
	MetadataUpdate       MetadataUpdate  `json:"metadataUpdate,omitempty"`
}

type RKEConfigNode struct {
	NodeName         string            `json:"nodeName,omitempty"`
	Address          string            `json:"address,omitempty"`
	HostnameOverride string            `json:"hostnameOverride,omitempty"`
	SSHUser          string            `json:"sshUser,omitempty"`
	Labels           map[string]string `json:"labels,omitempty"`
}

type NodeStatus struct {
	Conditions         []Condition         `json:"conditions,omitempty"`
	InternalNodeStatus corev1.NodeStatus   `json:"internalNodeStatus,omitempty"`
	NodeName           string              `json:"nodeName,omitempty"`
	Requested          corev1.ResourceList `json:"requested,omitempty"`
	Limits             corev1.ResourceList `json:"limits,omitempty"`
	NodeConfig         *RKEConfigNode      `json:"rkeNode,omitempty"`
	NodeAnnotations    map[string]string   `json:"nodeAnnotations,omitempty"`
	NodeLabels         map[string]string   `json:"nodeLabels,omitempty"`
	NodeTaints         []corev1.Taint      `json:"nodeTaints,omitempty"`
}

type Node struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              NodeSpec   `json:"spec"`
	Status            NodeStatus `json:"status"`
}

type ClusterSpec struct {
	DisplayName              string            `json:"displayName"`
	Description              string            `json:"description,omitempty"`
	Internal                 bool              `json:"internal,omitempty"`
	FleetWorkspaceName       string            `json:"fleetWorkspaceName,omitempty"`
	AgentImageOverride       string            `json:"agentImageOverride"`
	AgentEnvVars             []corev1.EnvVar   `json:"agentEnvVars,omitempty"`
	EnableNetworkPolicy      *bool             `json:"enableNetworkPolicy,omitempty"`
	WindowsPreferedCluster   bool              `json:"windowsPreferedCluster"`
	LocalClusterAuthEndpoint AuthEndpoint      `json:"localClusterAuthEndpoint,omitempty"`
	ClusterSecrets           map[string]string `json:"clusterSecrets,omitempty"`
}

type AuthEndpoint struct {
	Enabled bool   `json:"enabled"`
	FQDN    string `json:"fqdn,omitempty"`
	CACerts string `json:"caCerts,omitempty"`
}

type ClusterStatus struct {
	Conditions                []Condition         `json:"conditions,omitempty"`
	Driver                    string              `json:"driver"`
	Provider                  string              `json:"provider"`
	AgentImage                string              `json:"agentImage"`
	APIEndpoint               string              `json:"apiEndpoint,omitempty"`
	ServiceAccountTokenSecret string              `json:"serviceAccountTokenSecret,omitempty"`
	CACert                    string              `json:"caCert,omitempty"`
	Capacity                  corev1.ResourceList `json:"capacity,omitempty"`
	Allocatable               corev1.ResourceList `json:"allocatable,omitempty"`
	Requested                 corev1.ResourceList `json:"requested,omitempty"`
	Limits                    corev1.ResourceList `json:"limits,omitempty"`
	Version                   *version.Info       `json:"version,omitempty"`
	NodeCount                 int                 `json:"nodeCount,omitempty"`
	LinuxWorkerCount          int                 `json:"linuxWorkerCount,omitempty"`
	WindowsWorkerCount        int                 `json:"windowsWorkerCount,omitempty"`
}

type Cluster struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              ClusterSpec   `json:"spec"`
	Status            ClusterStatus `json:"status"`
}

type Setting struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Value             string `json:"value"`
	Default           string `json:"default"`
	Customized        bool   `json:"customized"`
	Source            string `json:"source"`
}

type FeatureSpec struct {
	Value *bool `json:"value"`
}

type FeatureStatus struct {
	Dynamic     bool   `json:"dynamic"`
	Default     bool   `json:"default"`
	Description string `json:"description"`
	LockedValue *bool  `json:"lockedValue"`
}

type Feature struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              FeatureSpec   `json:"spec"`
	Status            FeatureStatus `json:"status"`
}

type ProjectSpec struct {
	DisplayName string `json:"displayName,omitempty"`
	Description string `json:"description,omitempty"`
	ClusterName string `json:"clusterName,omitempty"`
}

type Project struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              ProjectSpec `json:"spec,omitempty"`
}

type NodeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []Node `json:"items"`
}

type ClusterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []Cluster `json:"items"`
}

type SettingList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []Setting `json:"items"`
}

type FeatureList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []Feature `json:"items"`
}

type ProjectList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []Project `json:"items"`
}

// An informer copies nothing on its own, but a scheme takes only what says that it can be copied.
// The copies are shallow: nothing here changes an object.

func (o *Node) DeepCopyObject() runtime.Object        { c := *o; return &c }
func (o *Cluster) DeepCopyObject() runtime.Object     { c := *o; return &c }
func (o *Setting) DeepCopyObject() runtime.Object     { c := *o; return &c }
func (o *Feature) DeepCopyObject() runtime.Object     { c := *o; return &c }
func (o *Project) DeepCopyObject() runtime.Object     { c := *o; return &c }
func (o *NodeList) DeepCopyObject() runtime.Object    { c := *o; return &c }
func (o *ClusterList) DeepCopyObject() runtime.Object { c := *o; return &c }
func (o *SettingList) DeepCopyObject() runtime.Object { c := *o; return &c }
func (o *FeatureList) DeepCopyObject() runtime.Object { c := *o; return &c }
func (o *ProjectList) DeepCopyObject() runtime.Object { c := *o; return &c }

func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(groupVersion,
		&Node{}, &NodeList{}, &Cluster{}, &ClusterList{}, &Setting{}, &SettingList{},
		&Feature{}, &FeatureList{}, &Project{}, &ProjectList{})
	metav1.AddToGroupVersion(scheme, groupVersion)
	return scheme
}
