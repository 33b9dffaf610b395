// The plan of a program: what the seed says before anything is set up.
#ifndef RANDOM_PLAN_H
#define RANDOM_PLAN_H

#include "random.h"

enum { MAX_NODES = 6, MAX_ITEMS = 24, MAX_THREADS = 4 };

// How a process comes to be where it is in the tree.
enum shape {
	CHILD,
	OWN_GROUP,      // leads a group
	OWN_SESSION,    // leads a session
	ADOPTED,        // its parent has ended, and a subreaper has it
	ORPHAN_GROUP,   // adopted, in a group whose leader has ended
	ORPHAN_SESSION, // adopted, in a session whose leader has ended: a daemon that forked twice
	SHAPES,
};

extern const char *const shape_names[SHAPES];

// node is one process of the tree. The root is node 0.
struct node {
	int parent;
	enum shape shape;
	int subreaper;
	int threads; // besides the main thread
	int n;
	int fork_at; // before which item its children are forked
	struct item items[MAX_ITEMS];
	int thread_of[MAX_ITEMS]; // 0: the main thread
	// known once it runs
	pid_t pid, ppid, pgid, sid;
};

struct plan {
	int n;
	struct node nodes[MAX_NODES];
};

// draw_plan draws the program of a seed.
void draw_plan(struct plan *plan, uint64_t seed);
// chosen_plan is a program of one process with the features of the given names.
void chosen_plan(struct plan *plan, uint64_t seed, char **names, int n);
// list_features prints all names, with the codes of a refusal.
void list_features(void);

#endif
