# Annotations: those by which a container is known, and those that the agent reads. The shim leaves the others out.

annotation_faults contains concat("", ["Annotations[", key, "]"]) if {
	some key, value in input.OCI.Annotations
	not is_annotation(key, value)
}

annotation_faults contains "Annotations (image)" if not is_image

annotation_faults contains "Annotations (two engines)" if {
	input.OCI.Annotations["io.kubernetes.cri.container-type"]
	input.OCI.Annotations["io.kubernetes.cri-o.ContainerType"]
}

# As the manifest has it (containerd from 2.0 on), or in full (1.7); the layers' hashes say what is in it.
is_image if container.name == pause

is_image if input.OCI.Annotations["io.kubernetes.cri.image-name"] in container.images

is_image if input.OCI.Annotations["io.kubernetes.cri-o.ContainerType"] == "container"

is_annotation("io.kubernetes.cri.container-type", value) if value in {"sandbox", "container"}

is_annotation("io.kubernetes.cri-o.ContainerType", value) if value in {"sandbox", "container"}

is_annotation("io.kubernetes.cri.container-name", value) if value == container.name

is_annotation("io.kubernetes.container.name", value) if value == container.name

is_annotation("io.kubernetes.cri.image-name", value) if value in container.images

is_annotation("io.kubernetes.cri.sandbox-id", value) if regex.match(id_pattern, value)

is_annotation("io.kubernetes.cri-o.SandboxID", value) if regex.match(id_pattern, value)

is_annotation("io.kubernetes.cri.sandbox-name", value) if is_pod_name(value)

is_annotation("io.kubernetes.pod.name", value) if is_pod_name(value)

is_annotation("io.kubernetes.cri.sandbox-namespace", value) if is_namespace(value)

is_annotation("io.kubernetes.pod.namespace", value) if is_namespace(value)

is_annotation("io.kubernetes.cri.sandbox-uid", value) if is_word(value)

is_annotation("io.kubernetes.pod.uid", value) if is_word(value)

# Names the file that GetDiagnosticData reads.
is_annotation("io.kubernetes.container.terminationMessagePath", value) if value == container.last_words

# devices_right looks at these.
is_annotation(key, value) if ranks[key] == value

# The manifest's, or by the pattern of those that its controller makes up.
is_pod_name(name) if regex.match(pod.name_pattern, name)

is_namespace(name) if name == pod.namespace

is_namespace(name) if {
	is_null(pod.namespace)
	is_word(name)
}

is_word(text) if regex.match(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`, text)
