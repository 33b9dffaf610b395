// Goroutines hashes in a pipeline of goroutines, with timers, garbage and the collector at work. It uses no network and
// opens no file, so the runtime's poller stays asleep.
package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
)

func main() {
	rounds := 300
	if len(os.Args) > 1 {
		rounds, _ = strconv.Atoi(os.Args[1])
	}
	fmt.Println("READY")
	var sum [32]byte
	for round := range rounds {
		in, out := make(chan int), make(chan [32]byte, 4)
		var workers sync.WaitGroup
		for range 8 {
			workers.Go(func() {
				for n := range in {
					garbage := make([]byte, 1<<14)
					garbage[n%len(garbage)] = byte(n)
					out <- sha256.Sum256(garbage)
				}
			})
		}
		go func() {
			for n := range 16 {
				in <- round*16 + n
			}
			close(in)
			workers.Wait()
			close(out)
		}()
		for h := range out {
			for i := range sum {
				sum[i] += h[i] // any order gives the same sum
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
	fmt.Printf("sum %x\n", sum)
}
