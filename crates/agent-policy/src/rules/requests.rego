# Every request that kata-agent 4.1.0 asks about is refused unless a rule says otherwise. What is wrong with a refused
# one is printed: the agent puts it into its answer.
default AddARPNeighborsRequest := false
default AddSwapPathRequest := false
default AddSwapRequest := false
default AllowRequestsFailingPolicy := false
default CloseStdinRequest := false
default CopyFileRequest := false
default CreateContainerRequest := false
default CreateSandboxRequest := false
default ExecProcessRequest := false
default GetDiagnosticDataRequest := false
default GetIPTablesRequest := false
default GetMetricsRequest := false
default GuestDetailsRequest := false
default ListInterfacesRequest := false
default ListRoutesRequest := false
default MemAgentCompactConfig := false
default MemAgentMemcgConfig := false
default MemHotplugByProbeRequest := false
default OnlineCPUMemRequest := false
default PauseContainerRequest := false
default ReadStreamRequest := false
default RemoveContainerRequest := false
default RemoveStaleVirtiofsShareMountsRequest := false
default ReseedRandomDevRequest := false
default ResizeVolumeRequest := false
default ResumeContainerRequest := false
default SetGuestDateTimeRequest := false
default SetIPTablesRequest := false
default SetPolicyRequest := false
default SignalProcessRequest := false
default StartContainerRequest := false
default StatsContainerRequest := false
default TtyWinResizeRequest := false
default UpdateContainerRequest := false
default UpdateEphemeralMountsRequest := false
default UpdateInterfaceRequest := false
default UpdateRoutesRequest := false
default VolumeStatsRequest := false
default WaitProcessRequest := false
default WriteStreamRequest := false

# These two have no fields. The end of the pod is the host's to decide, and memory that runs out is its memory.
default DestroySandboxRequest := true
default GetOOMEventRequest := true

# Whether a request has no faults. A fault is the field's name, and is there unless the field is proved right: what is
# missing or of another type is a fault.
right(faults) if count(faults) == 0

right(faults) if {
	count(faults) > 0
	print("wrong:", concat(", ", sort(faults)))
	false
}

is_between(number, least, most) if {
	is_number(number)
	number >= least
	number <= most
}
