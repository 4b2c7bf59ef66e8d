package container

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// allowedCalls may be made by every container. It is the list of containerd's and Docker's default profile
// (Apache-2.0), which common software is tested with, for the 64-bit interface only and without what
// adjusts the clock or describes mounts. Notably missing, because bugs in them broke out of containers:
// mount and its new family, unshare, setns, ptrace, bpf, io_uring, userfaultfd, keyctl, perf_event_open,
// open_by_handle_at, module and kexec loading.
const allowedCalls = `
	accept accept4 access alarm arch_prctl bind brk cachestat capget capset chdir chmod chown
	clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup
	dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd
	eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod
	fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr
	fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake
	futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid
	getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid
	getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr
	getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy
	io_getevents io_pgetevents io_setup io_submit ioctl ioprio_get ioprio_set kill landlock_add_rule
	landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listxattr
	listxattrat llistxattr lremovexattr lseek lsetxattr lstat madvise membarrier memfd_create mincore
	mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mprotect mq_getsetattr mq_notify mq_open
	mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock
	munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open
	pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv
	preadv2 prlimit64 process_mrelease pselect6 pwrite64 pwritev pwritev2 read readahead readlink
	readlinkat readv recvfrom recvmmsg recvmsg removexattr removexattrat rename renameat renameat2
	restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
	rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
	sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
	sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select
	semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_robust_list set_thread_area
	set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid
	setresgid setresuid setreuid setrlimit setsid setsockopt setuid setxattr setxattrat shmat shmctl
	shmdt shmget shutdown sigaltstack signalfd signalfd4 socketpair splice stat statfs statx symlink
	symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete
	timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times
	tkill truncate umask uname unlink unlinkat utime utimensat utimes vfork vmsplice wait4 waitid
	write writev
`

// callsOf are the further calls that a capability is useless without.
var callsOf = map[string]string{
	"CAP_BPF":             "bpf",
	"CAP_DAC_READ_SEARCH": "open_by_handle_at",
	"CAP_PERFMON":         "perf_event_open",
	"CAP_SYS_ADMIN": `bpf clone clone3 fanotify_init fanotify_mark fsconfig fsmount fsopen fspick mount
		mount_setattr move_mount open_tree perf_event_open pivot_root quotactl setdomainname sethostname
		setns syslog umount2 unshare`,
	"CAP_SYS_BOOT":       "reboot",
	"CAP_SYS_CHROOT":     "chroot",
	"CAP_SYS_MODULE":     "delete_module finit_module init_module",
	"CAP_SYS_NICE":       "get_mempolicy mbind set_mempolicy",
	"CAP_SYS_PACCT":      "acct",
	"CAP_SYS_PTRACE":     "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
	"CAP_SYS_RAWIO":      "iopl ioperm",
	"CAP_SYS_TIME":       "adjtimex clock_adjtime clock_settime settimeofday",
	"CAP_SYS_TTY_CONFIG": "vhangup",
	"CAP_SYSLOG":         "syslog",
}

const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
	unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// seccomp is the filter for a container with these capabilities. A call that is not allowed fails with
// ENOSYS, as on an older kernel, for which programs have a fallback; EPERM makes some give up. 32-bit
// calls kill the process: their numbers mean other things, and no image needs them.
func seccomp(caps []string) *specs.LinuxSeccomp {
	nosys := uint(unix.ENOSYS)
	allow := func(names string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: strings.Fields(names), Action: specs.ActAllow, Args: args}
	}
	eq := func(arg uint, v uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: arg, Value: v, Op: specs.OpEqualTo}
	}
	s := &specs.LinuxSeccomp{
		DefaultAction:   specs.ActErrno,
		DefaultErrnoRet: &nosys,
		// No Architectures: the machine's own only.
		Syscalls: []specs.LinuxSyscall{allow(allowedCalls)},
	}
	// Families with a use in a container: AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET (behind
	// NET_RAW). Not AF_ALG, AF_VSOCK and the historic ones: attack surface without a use.
	for _, family := range []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK, unix.AF_PACKET} {
		s.Syscalls = append(s.Syscalls, allow("socket", eq(0, family)))
	}
	// PER_LINUX, UNAME26, both, and asking.
	for _, p := range []uint64{0, 0x0008, 0x20000, 0x20008, 0xffffffff} {
		s.Syscalls = append(s.Syscalls, allow("personality", eq(0, p)))
	}
	if !slices.Contains(caps, "CAP_SYS_ADMIN") {
		// A process may fork and make threads, but no namespaces, the user namespace above all. clone3
		// has its flags in memory where a filter cannot see them; libc falls back to clone.
		s.Syscalls = append(s.Syscalls, allow("clone", specs.LinuxSeccompArg{
			Index: 0, Value: newNamespaces, ValueTwo: 0, Op: specs.OpMaskedEqual}))
	}
	for _, c := range caps {
		if calls, ok := callsOf[c]; ok {
			s.Syscalls = append(s.Syscalls, allow(calls))
		}
	}
	return s
}
