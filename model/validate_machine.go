package model

import "fmt"

// machines are those whose images are read, by uname -m, with what checks the registers of a thread. The machine that
// reads need not be one of them.
var machines = map[string]func(*Kernel, *Thread) error{machineX86: checkX86, machineAarch64: checkAarch64}

// checkMachine checks that the state's registers are of a machine this release knows.
func checkMachine(k *Kernel) error {
	if machines[k.Machine] == nil {
		return fmt.Errorf("the machine %q is unknown", k.Machine)
	}
	return nil
}

// checkRegisters checks the registers of a thread. The machine is known.
func checkRegisters(k *Kernel, t *Thread) error { return machines[k.Machine](k, t) }
