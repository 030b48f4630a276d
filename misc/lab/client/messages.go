package main

import "fmt"

// The part of Kubernetes' CRI (package runtime.v1, api.proto) that the lab speaks. Debian 12 has no package of it, and a
// protobuf message needs no more than its field numbers.

type image struct {
	Image string `protobuf:"bytes,1,opt,name=image,proto3"`
}

type authConfig struct {
	Username string `protobuf:"bytes,1,opt,name=username,proto3"`
	Password string `protobuf:"bytes,2,opt,name=password,proto3"`
}

type imageRequest struct { // PullImageRequest, RemoveImageRequest, which has the image alone
	Image   *image         `protobuf:"bytes,1,opt,name=image,proto3"`
	Auth    *authConfig    `protobuf:"bytes,2,opt,name=auth,proto3"`
	Sandbox *sandboxConfig `protobuf:"bytes,3,opt,name=sandbox_config,proto3"`
}

type pullImageResponse struct {
	ImageRef string `protobuf:"bytes,1,opt,name=image_ref,proto3"`
}

type sandboxMetadata struct {
	Name      string `protobuf:"bytes,1,opt,name=name,proto3"`
	UID       string `protobuf:"bytes,2,opt,name=uid,proto3"`
	Namespace string `protobuf:"bytes,3,opt,name=namespace,proto3"`
}

// namespaceNode is NamespaceMode NODE: the host's network, so that no CNI plugin is needed.
const namespaceNode = 2

type namespaceOption struct {
	Network int32          `protobuf:"varint,1,opt,name=network,proto3"`
	Userns  *userNamespace `protobuf:"bytes,5,opt,name=userns_options,proto3"`
}

// userNamespace is UserNamespace of mode POD, which is 0: the pod has one of its own (`hostUsers: false`).
type userNamespace struct {
	Uids []*idMapping `protobuf:"bytes,2,rep,name=uids,proto3"`
	Gids []*idMapping `protobuf:"bytes,3,rep,name=gids,proto3"`
}

type idMapping struct {
	Host      uint32 `protobuf:"varint,1,opt,name=host_id,proto3"`
	Container uint32 `protobuf:"varint,2,opt,name=container_id,proto3"`
	Length    uint32 `protobuf:"varint,3,opt,name=length,proto3"`
}

type sandboxSecurity struct {
	Namespaces *namespaceOption `protobuf:"bytes,1,opt,name=namespace_options,proto3"`
}

type linuxSandbox struct {
	CgroupParent string           `protobuf:"bytes,1,opt,name=cgroup_parent,proto3"`
	Security     *sandboxSecurity `protobuf:"bytes,2,opt,name=security_context,proto3"`
}

type sandboxConfig struct {
	Metadata     *sandboxMetadata  `protobuf:"bytes,1,opt,name=metadata,proto3"`
	LogDirectory string            `protobuf:"bytes,3,opt,name=log_directory,proto3"`
	Annotations  map[string]string `protobuf:"bytes,7,rep,name=annotations,proto3" protobuf_key:"bytes,1,opt,name=key,proto3" protobuf_val:"bytes,2,opt,name=value,proto3"`
	Linux        *linuxSandbox     `protobuf:"bytes,8,opt,name=linux,proto3"`
}

type runSandboxRequest struct {
	Config  *sandboxConfig `protobuf:"bytes,1,opt,name=config,proto3"`
	Runtime string         `protobuf:"bytes,2,opt,name=runtime_handler,proto3"`
}

type id struct { // every request and answer whose only field is a sandbox's or a container's id
	ID string `protobuf:"bytes,1,opt,name=id,proto3"`
}

type containerMetadata struct {
	Name string `protobuf:"bytes,1,opt,name=name,proto3"`
}

type int64Value struct {
	Value int64 `protobuf:"varint,1,opt,name=value,proto3"`
}

type containerSecurity struct {
	Namespaces *namespaceOption `protobuf:"bytes,3,opt,name=namespace_options,proto3"`
	RunAsUser  *int64Value      `protobuf:"bytes,5,opt,name=run_as_user,proto3"`
}

type linuxContainer struct {
	Security *containerSecurity `protobuf:"bytes,2,opt,name=security_context,proto3"`
}

// mount is Mount with an image as its source: an image volume.
type mount struct {
	ContainerPath string `protobuf:"bytes,1,opt,name=container_path,proto3"`
	Readonly      bool   `protobuf:"varint,3,opt,name=readonly,proto3"`
	Image         *image `protobuf:"bytes,9,opt,name=image,proto3"`
}

type containerConfig struct {
	Metadata *containerMetadata `protobuf:"bytes,1,opt,name=metadata,proto3"`
	Image    *image             `protobuf:"bytes,2,opt,name=image,proto3"`
	Command  []string           `protobuf:"bytes,3,rep,name=command,proto3"`
	Mounts   []*mount           `protobuf:"bytes,7,rep,name=mounts,proto3"`
	LogPath  string             `protobuf:"bytes,11,opt,name=log_path,proto3"`
	Linux    *linuxContainer    `protobuf:"bytes,15,opt,name=linux,proto3"`
}

type createContainerRequest struct {
	Sandbox       string           `protobuf:"bytes,1,opt,name=pod_sandbox_id,proto3"`
	Config        *containerConfig `protobuf:"bytes,2,opt,name=config,proto3"`
	SandboxConfig *sandboxConfig   `protobuf:"bytes,3,opt,name=sandbox_config,proto3"`
}

// containerExited is ContainerState CONTAINER_EXITED.
const containerExited = 2

type containerStatus struct {
	State    int32  `protobuf:"varint,3,opt,name=state,proto3"`
	ExitCode int32  `protobuf:"varint,7,opt,name=exit_code,proto3"`
	Message  string `protobuf:"bytes,11,opt,name=message,proto3"`
}

type containerStatusResponse struct {
	Status *containerStatus `protobuf:"bytes,1,opt,name=status,proto3"`
}

type execRequest struct {
	Container string   `protobuf:"bytes,1,opt,name=container_id,proto3"`
	Command   []string `protobuf:"bytes,2,rep,name=cmd,proto3"`
	Timeout   int64    `protobuf:"varint,3,opt,name=timeout,proto3"`
}

type execResponse struct {
	Stdout   []byte `protobuf:"bytes,1,opt,name=stdout,proto3"`
	Stderr   []byte `protobuf:"bytes,2,opt,name=stderr,proto3"`
	ExitCode int32  `protobuf:"varint,3,opt,name=exit_code,proto3"`
}

type imageFsInfoResponse struct {
	Filesystems []*filesystemUsage `protobuf:"bytes,1,rep,name=image_filesystems,proto3"`
}

type filesystemUsage struct {
	ID   *filesystemID `protobuf:"bytes,2,opt,name=fs_id,proto3"`
	Used *int64Value   `protobuf:"bytes,3,opt,name=used_bytes,proto3"`
}

type filesystemID struct {
	Mountpoint string `protobuf:"bytes,1,opt,name=mountpoint,proto3"`
}

type empty struct{}

// What the protobuf library asks of a message.

func (m *image) Reset()                   { *m = image{} }
func (m *imageRequest) Reset()            { *m = imageRequest{} }
func (m *authConfig) Reset()              { *m = authConfig{} }
func (m *pullImageResponse) Reset()       { *m = pullImageResponse{} }
func (m *sandboxMetadata) Reset()         { *m = sandboxMetadata{} }
func (m *namespaceOption) Reset()         { *m = namespaceOption{} }
func (m *userNamespace) Reset()           { *m = userNamespace{} }
func (m *idMapping) Reset()               { *m = idMapping{} }
func (m *sandboxSecurity) Reset()         { *m = sandboxSecurity{} }
func (m *linuxSandbox) Reset()            { *m = linuxSandbox{} }
func (m *sandboxConfig) Reset()           { *m = sandboxConfig{} }
func (m *runSandboxRequest) Reset()       { *m = runSandboxRequest{} }
func (m *id) Reset()                      { *m = id{} }
func (m *containerMetadata) Reset()       { *m = containerMetadata{} }
func (m *int64Value) Reset()              { *m = int64Value{} }
func (m *containerSecurity) Reset()       { *m = containerSecurity{} }
func (m *linuxContainer) Reset()          { *m = linuxContainer{} }
func (m *containerConfig) Reset()         { *m = containerConfig{} }
func (m *createContainerRequest) Reset()  { *m = createContainerRequest{} }
func (m *containerStatus) Reset()         { *m = containerStatus{} }
func (m *containerStatusResponse) Reset() { *m = containerStatusResponse{} }
func (m *execRequest) Reset()             { *m = execRequest{} }
func (m *execResponse) Reset()            { *m = execResponse{} }
func (m *imageFsInfoResponse) Reset()     { *m = imageFsInfoResponse{} }
func (m *filesystemUsage) Reset()         { *m = filesystemUsage{} }
func (m *filesystemID) Reset()            { *m = filesystemID{} }
func (m *empty) Reset()                   { *m = empty{} }

func (m *image) String() string                   { return fmt.Sprintf("%+v", *m) }
func (m *imageRequest) String() string            { return fmt.Sprintf("%+v", *m) }
func (m *authConfig) String() string              { return fmt.Sprintf("%+v", *m) }
func (m *pullImageResponse) String() string       { return fmt.Sprintf("%+v", *m) }
func (m *sandboxMetadata) String() string         { return fmt.Sprintf("%+v", *m) }
func (m *namespaceOption) String() string         { return fmt.Sprintf("%+v", *m) }
func (m *userNamespace) String() string           { return fmt.Sprintf("%+v", *m) }
func (m *idMapping) String() string               { return fmt.Sprintf("%+v", *m) }
func (m *sandboxSecurity) String() string         { return fmt.Sprintf("%+v", *m) }
func (m *linuxSandbox) String() string            { return fmt.Sprintf("%+v", *m) }
func (m *sandboxConfig) String() string           { return fmt.Sprintf("%+v", *m) }
func (m *runSandboxRequest) String() string       { return fmt.Sprintf("%+v", *m) }
func (m *id) String() string                      { return fmt.Sprintf("%+v", *m) }
func (m *containerMetadata) String() string       { return fmt.Sprintf("%+v", *m) }
func (m *int64Value) String() string              { return fmt.Sprintf("%+v", *m) }
func (m *containerSecurity) String() string       { return fmt.Sprintf("%+v", *m) }
func (m *linuxContainer) String() string          { return fmt.Sprintf("%+v", *m) }
func (m *containerConfig) String() string         { return fmt.Sprintf("%+v", *m) }
func (m *createContainerRequest) String() string  { return fmt.Sprintf("%+v", *m) }
func (m *containerStatus) String() string         { return fmt.Sprintf("%+v", *m) }
func (m *containerStatusResponse) String() string { return fmt.Sprintf("%+v", *m) }
func (m *execRequest) String() string             { return fmt.Sprintf("%+v", *m) }
func (m *execResponse) String() string            { return fmt.Sprintf("%+v", *m) }
func (m *imageFsInfoResponse) String() string     { return fmt.Sprintf("%+v", *m) }
func (m *filesystemUsage) String() string         { return fmt.Sprintf("%+v", *m) }
func (m *filesystemID) String() string            { return fmt.Sprintf("%+v", *m) }
func (m *empty) String() string                   { return fmt.Sprintf("%+v", *m) }

func (*image) ProtoMessage()                   {}
func (*imageRequest) ProtoMessage()            {}
func (*authConfig) ProtoMessage()              {}
func (*pullImageResponse) ProtoMessage()       {}
func (*sandboxMetadata) ProtoMessage()         {}
func (*namespaceOption) ProtoMessage()         {}
func (*userNamespace) ProtoMessage()           {}
func (*idMapping) ProtoMessage()               {}
func (*sandboxSecurity) ProtoMessage()         {}
func (*linuxSandbox) ProtoMessage()            {}
func (*sandboxConfig) ProtoMessage()           {}
func (*runSandboxRequest) ProtoMessage()       {}
func (*id) ProtoMessage()                      {}
func (*containerMetadata) ProtoMessage()       {}
func (*int64Value) ProtoMessage()              {}
func (*containerSecurity) ProtoMessage()       {}
func (*linuxContainer) ProtoMessage()          {}
func (*containerConfig) ProtoMessage()         {}
func (*createContainerRequest) ProtoMessage()  {}
func (*containerStatus) ProtoMessage()         {}
func (*containerStatusResponse) ProtoMessage() {}
func (*execRequest) ProtoMessage()             {}
func (*execResponse) ProtoMessage()            {}
func (*imageFsInfoResponse) ProtoMessage()     {}
func (*filesystemUsage) ProtoMessage()         {}
func (*filesystemID) ProtoMessage()            {}
func (*empty) ProtoMessage()                   {}
