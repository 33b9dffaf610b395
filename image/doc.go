// Package image is the format and the stores of bpfckpt: a store holds a tree of images, each the state of a process
// tree (package model) and its memory. It knows nothing of processes: package snapshot hands over a state and pages,
// package restore takes them out again. It builds and reads on any system, without Linux, root or BPF; writing to a
// directory needs flock(2).
//
// What a name means, what may go and how an image comes to be is in Images, the same for every Store. Dir is a
// directory as a store, and the functions that take a path, like Open, are about one:
//
//	DIR/store              "bpfckpt store 1\n"; the store's lock is a flock on this file
//	DIR/head               id of the image that DIR alone means, and a checksum
//	DIR/images/ID/info     header | JSON: name, parent, counts, sizes and sums of the files below
//	DIR/images/ID/state    header | zstd(record | record | ...)
//	DIR/images/ID/pages    header | image ids | frames | runs       (the page map)
//	DIR/images/ID/data     header, zero up to 4096 | frame | frame | ...
//	DIR/images/ID/removed  instead of info, state and pages: a removed image whose data others still reference
//	DIR/tmp/ID, ID.lock    an image being written, and the flock that tells that its writer lives
//
//	run   = space, address, pages -> frame, offset in it; or zero
//	frame = image, offset, length in that image's data file, raw or zstd, xxhash64
//
// A run names its frame and a frame its image, so the map of every image is full and no reader walks a chain of
// parents. docs/format.md has every field.
//
// Writing: Create, any number of Write, Zero and Discard from one goroutine, then Commit or Abort. Encoding and output
// run in workers behind bounded buffers. Until Commit's last step, a rename, the image does not exist for readers.
//
// With a Parent, Keep takes pages of the parent's map into the new one without looking at them, and Compare takes those
// that are equal. What is neither written nor kept is absent. Follows tells whether the parent is of the same run of
// the same process.
//
// Remove, Prune and Squash change a store by steps that are atomic each (renames, in a directory): killed at any
// moment, every image is whole or gone.
//
// Reading: Open checks everything but the page data. Load and Verify check each frame before anyone sees it. A Reader
// is safe for concurrent use. What is on disk is taken for hostile: sizes are bounded before memory is allocated for
// them.
//
// Lock order: the store's lock is taken after, and never while waiting for, the lock of a temporary image.
package image
