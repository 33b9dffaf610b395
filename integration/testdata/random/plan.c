// Drawing a program.
#include "plan.h"

const char *const shape_names[SHAPES] = {"tree child", "tree own group", "tree own session", "tree adopted", "tree group without leader", "tree session without leader"};

static const struct table *const tables[] = {
	&memory_table, &filemap_table, &files_table,  &pipes_table,    &events_table,  &timers_table,
	&signals_table, &process_table, &rights_table, &children_table, &calls_table, &exec_table, &refused_table, &refused_fds_table,
};

enum { MAX_FEATURES = 1000 };

static const struct feature *supported[MAX_FEATURES], *refused[MAX_FEATURES];
static size_t n_supported, n_refused;

static void gather(void)
{
	for (size_t t = 0; t < COUNT(tables); t++) {
		for (size_t i = 0; i < tables[t]->n; i++) {
			const struct feature *f = &tables[t]->features[i];
			if (f->refused == NULL)
				supported[n_supported++] = f;
			else
				refused[n_refused++] = f;
		}
	}
}

// fits says whether a feature may stand in a thread of a process beside those that are there.
static int fits(const struct node *node, const struct feature *f, int thread)
{
	if (node->n == MAX_ITEMS)
		return 0;
	for (int i = 0; i < node->n; i++) {
		const struct feature *g = node->items[i].feature;
		if (f->alone == NULL || g->alone == NULL || strcmp(f->alone, g->alone) != 0)
			continue;
		if (f->flags & g->flags & ALONE)
			continue; // each has a process of its own
		if (!(f->flags & g->flags & OF_A_THREAD) || node->thread_of[i] == thread)
			return 0;
	}
	return 1;
}

static int add(struct plan *plan, int n, const struct feature *f, uint64_t *state)
{
	struct node *node = &plan->nodes[n];
	int thread = f->flags & OF_A_THREAD ? (int)(draw(state) % (uint64_t)(node->threads + 1)) : 0;
	if (!fits(node, f, thread))
		return 0;
	struct item *it = &node->items[node->n];
	*it = (struct item){.feature = f, .random = draw(state), .fd = {-1, -1, -1, -1}};
	snprintf(it->name, sizeof it->name, "p%d.f%d", n, node->n);
	node->thread_of[node->n++] = thread;
	return 1;
}

// A process that others are adopted by has to be above them: every second inner process is a subreaper, the root always
// where it is needed.
static void draw_tree(struct plan *plan, uint64_t *state)
{
	static const int sizes[] = {1, 1, 1, 2, 2, 3, 3, 4, 5, 6};
	plan->n = sizes[draw(state) % COUNT(sizes)];
	for (int i = 0; i < plan->n; i++) {
		struct node *node = &plan->nodes[i];
		node->parent = i == 0 ? -1 : (int)(draw(state) % (uint64_t)i);
		node->threads = draw(state) % 2 ? (int)(draw(state) % MAX_THREADS) : 0;
		node->subreaper = draw(state) % 4 == 0;
		node->shape = (enum shape)(draw(state) % (i > 0 ? SHAPES : ADOPTED));
		if (node->shape >= ADOPTED)
			plan->nodes[0].subreaper = 1;
	}
}

// dealt is a list of features as cards are dealt: each once, in an order of its own in each round, so that each comes
// as often as the others.
static const struct feature *dealt(const struct feature **list, size_t n, uint64_t at)
{
	static const uint64_t strides[] = {1223, 1601, 1777, 1951, 1303, 1429, 1657, 1867}; // primes above n
	uint64_t round = at / n;
	return list[(at % n * strides[round % COUNT(strides)] + round) % n];
}

// features of a program: those to be refused, and those supported on the average and at most
enum { REFUSED = 6, SUPPORTED = 18, MOST = 30 };

static void deal_refused(struct plan *plan, uint64_t round, uint64_t *state)
{
	for (uint64_t i = round * REFUSED; i < (round + 1) * REFUSED; i++)
		for (int tries = 0; tries < 8 && !add(plan, (int)(draw(state) % (uint64_t)plan->n), dealt(refused, n_refused, i), state); tries++)
			;
}

static void deal_supported(struct plan *plan, uint64_t round, uint64_t *state)
{
	int want = 2 * SUPPORTED - MOST + (int)(draw(state) % (2 * (MOST - SUPPORTED) + 1));
	for (uint64_t i = round * SUPPORTED; want > 0 && i < round * SUPPORTED + 4 * MOST; i++) {
		const struct feature *f = dealt(supported, n_supported, i);
		if (!(f->flags & RARE) || draw(state) % 3 != 0)
			want -= add(plan, (int)(draw(state) % (uint64_t)plan->n), f, state);
	}
}

void draw_plan(struct plan *plan, uint64_t seed)
{
	uint64_t state = seed * 0x2545f4914f6cdd1dULL + 1;
	gather();
	draw_tree(plan, &state);
	if (seed % 5 == 0)
		deal_refused(plan, seed / 5, &state);
	deal_supported(plan, seed, &state);
	for (int i = 0; i < plan->n; i++)
		plan->nodes[i].fork_at = (int)(draw(&state) % (uint64_t)(plan->nodes[i].n + 1));
}

void chosen_plan(struct plan *plan, uint64_t seed, char **names, int n)
{
	uint64_t state = seed;
	gather();
	plan->n = 1;
	plan->nodes[0].parent = -1;
	for (int i = 0; i < n; i++) {
		int found = 0;
		for (size_t j = 0; j < n_supported + n_refused && !found; j++) {
			const struct feature *f = j < n_supported ? supported[j] : refused[j - n_supported];
			found = strcmp(f->name, names[i]) == 0 && add(plan, 0, f, &state);
		}
		for (int s = 0; s < SHAPES && !found && plan->n < MAX_NODES; s++) {
			if (strcmp(shape_names[s], names[i]) != 0)
				continue;
			plan->nodes[plan->n++] = (struct node){.shape = (enum shape)s};
			plan->nodes[0].subreaper |= s >= ADOPTED;
			found = 1;
		}
		if (!found) {
			printf("no feature %s, or not beside the others\n", names[i]);
			exit(64);
		}
	}
}

void list_features(void)
{
	gather();
	for (int s = 0; s < SHAPES; s++)
		printf("feature %s: -\n", shape_names[s]);
	for (size_t i = 0; i < n_supported; i++)
		printf("feature %s: -\n", supported[i]->name);
	for (size_t i = 0; i < n_refused; i++)
		printf("feature %s: %s\n", refused[i]->name, refused[i]->refused);
}
