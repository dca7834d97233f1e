# Commands in a running container, its streams, its signals and its figures.

ExecProcessRequest if right(exec_faults)

exec_faults contains "container_id" if not in_phase({"started"})

exec_faults contains "exec_id" if not is_exec_id(input.exec_id)

exec_faults contains "string_user" if not is_null(input.string_user)

exec_faults contains "stdin_port" if not input.stdin_port == 0

exec_faults contains "stdout_port" if not input.stdout_port == 0

exec_faults contains "stderr_port" if not input.stderr_port == 0

exec_faults contains "process.Args" if not is_command

exec_faults contains "process.Terminal" if not exec_terminal_right

exec_faults contains concat("", ["process.", fault]) if some fault in process_faults

# Of no container, since a container's first process goes by its id. The agent takes none that is in use.
is_exec_id(id) if {
	regex.match(id_pattern, id)
	not memory.containers[id]
}

# The manifest's probes and hooks.
is_command if input.process.Args in wanted.commands

is_command if may_exec

may_exec if {
	pod.exec == true
	named.name != pause
}

exec_terminal_right if input.process.Terminal == false

exec_terminal_right if may_exec

# A process by the container's id and its own: the first one has none, or the container's.
is_first if input.exec_id in {"", input.container_id}

is_process if is_first

is_process if is_exec_id(input.exec_id)

# What is not for the host comes back empty.
ReadStreamRequest if right(read_faults)

read_faults contains "container_id" if not named

read_faults contains "exec_id" if not is_process

read_faults contains "(output is not for the host)" if not may_read

may_read if pod.logs == true

may_read if {
	may_exec
	not is_first
}

WriteStreamRequest if right(write_faults)

write_faults contains "container_id" if not in_phase({"started"})

write_faults contains "exec_id" if not is_process

write_faults contains "(there is no input)" if not may_write

may_write if {
	wanted.stdin == true
	is_first
}

may_write if {
	may_exec
	not is_first
}

CloseStdinRequest if right(close_faults)

close_faults contains "container_id" if not named

close_faults contains "exec_id" if not is_process

TtyWinResizeRequest if right(resize_faults)

resize_faults contains "container_id" if not in_phase({"started"})

resize_faults contains "exec_id" if not is_process

resize_faults contains "(there is no terminal)" if not has_terminal

resize_faults contains "row" if not is_between(input.row, 0, 65535)

resize_faults contains "column" if not is_between(input.column, 0, 65535)

has_terminal if {
	wanted.tty == true
	is_first
}

has_terminal if {
	may_exec
	not is_first
}

# SIGKILL, SIGTERM, and what the image or the manifest says ends it: others make a program open a debugger or dump.
SignalProcessRequest if right(signal_faults)

signal_faults contains "container_id" if not named

signal_faults contains "exec_id" if not is_process

# 65 is no signal: the kernel refuses it, for a process that lives in another way than for one that is gone. So the shim asks.
signal_faults contains "signal" if {
	not input.signal in wanted.signals
	input.signal != 65
}

WaitProcessRequest if right(wait_faults)

wait_faults contains "container_id" if not named

wait_faults contains "exec_id" if not is_process

# Processor time and memory over time: a side channel, which the host has by other ways too.
StatsContainerRequest if right(stats_faults)

stats_faults contains "container_id" if not named

GetDiagnosticDataRequest if right(diagnostic_faults)

diagnostic_faults contains "container_id" if not named

diagnostic_faults contains "log_type" if not input.log_type == "termination_log"

diagnostic_faults contains "(output is not for the host)" if not pod.logs == true
