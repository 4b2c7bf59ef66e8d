package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// slurmConf has what Slurm's guide for high throughput asks for, and as many slots as did best when others were tried. Its
// state is in memory like that of the others; it keeps no accounts and makes no cgroups, which is to its advantage.
const slurmConf = `ClusterName=bench
SlurmctldHost=%[1]s(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/none
CredType=cred/none
SlurmUser=%[3]s
SlurmdUser=%[3]s
StateSaveLocation=%[2]s/state
SlurmdSpoolDir=%[2]s/spool
SlurmctldPidFile=%[2]s/slurmctld.pid
SlurmdPidFile=%[2]s/slurmd.pid
SlurmctldLogFile=%[2]s/slurmctld.log
SlurmdLogFile=%[2]s/slurmd.log
PluginDir=%[4]s
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_max_job_start=0,default_queue_depth=10000,max_rpc_cnt=0
MaxJobCount=20000
MaxArraySize=20001
MinJobAge=10
MessageTimeout=60
ReturnToService=2
MailProg=/bin/true
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
NodeName=%[1]s NodeAddr=127.0.0.1 CPUs=512 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes=%[1]s Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
`

// newSlurm starts a controller and a node of Slurm on loopback.
func newSlurm(ctx context.Context, peers, dir string) (*contestant, error) {
	root, err := filepath.Abs(filepath.Join(peers, "root"))
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	host, _, _ = strings.Cut(host, ".")
	dir = filepath.Join(dir, "slurm")
	for _, d := range []string{"state", "spool", "out"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	lib := filepath.Join(root, "usr/lib/x86_64-linux-gnu")
	conf := filepath.Join(dir, "slurm.conf")
	user := "root"
	if u, err := exec.Command("id", "-un").Output(); err == nil {
		user = strings.TrimSpace(string(u))
	}
	if err := os.WriteFile(conf, fmt.Appendf(nil, slurmConf, host, dir, user, filepath.Join(lib, "slurm-wlm")), 0o644); err != nil {
		return nil, err
	}
	env := append(os.Environ(), "SLURM_CONF="+conf, "LD_LIBRARY_PATH="+lib+":"+filepath.Join(lib, "slurm-wlm"))
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, filepath.Join(root, "usr", name), args...)
		cmd.Env, cmd.Dir = env, filepath.Join(dir, "out")
		return cmd
	}
	var running []*exec.Cmd
	end := func() {
		for _, c := range running {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
	}
	for _, c := range []*exec.Cmd{
		command("sbin/slurmctld-wlm", "-D", "-f", conf),
		command("sbin/slurmd-wlm", "-D", "-f", conf, "-N", host, "-d", filepath.Join(root, "usr/sbin/slurmstepd-wlm")),
	} {
		if err := c.Start(); err != nil {
			end()
			return nil, err
		}
		running = append(running, c)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		out, err := command("bin/sinfo", "-h", "-o", "%t").CombinedOutput()
		if err == nil && strings.TrimSpace(string(out)) == "idle" {
			break
		}
		if time.Now().After(deadline) {
			end()
			logs, _ := exec.Command("tail", "-n", "5", dir+"/slurmctld.log", dir+"/slurmd.log").CombinedOutput()
			return nil, fmt.Errorf("its node is not idle but %q (%v): %s", out, err, logs)
		}
		time.Sleep(100 * time.Millisecond)
	}
	script := filepath.Join(dir, "true.sh")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexec /bin/true\n"), 0o755); err != nil {
		end()
		return nil, err
	}
	return &contestant{name: "Slurm", slots: []int{64, 512}, close: end, run: func(ctx context.Context, n int) (time.Duration, error) {
		began := time.Now()
		out, err := command("bin/sbatch", "--parsable", "-o", "/dev/null", "-e", "/dev/null", fmt.Sprintf("--array=1-%d%%%d", *tasks, n), script).CombinedOutput()
		if err != nil {
			return 0, fmt.Errorf("sbatch: %w: %s", err, out)
		}
		id := string(bytes.TrimSpace(out))
		for {
			out, err := command("bin/squeue", "-h", "-j", id, "-o", "%t").CombinedOutput()
			if err != nil || len(bytes.TrimSpace(out)) == 0 {
				return time.Since(began), nil
			}
			time.Sleep(200 * time.Millisecond)
		}
	}}, nil
}
