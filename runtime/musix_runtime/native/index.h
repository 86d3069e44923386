/* Index: vectors, and the search for those of the greatest products with a query. */

#ifndef MUSIX_INDEX_H
#define MUSIX_INDEX_H

#include "arrays.h"

#define LANES 8 /* partial sums of a product */
#define AHEAD 8 /* rows that are fetched before their turn: they are scattered over memory */

typedef struct {
    float score;
    int32_t row;
} Hit;

typedef struct Index Index;

typedef struct {
    const float *data;
    Py_ssize_t rows, width;
} Matrix;

int is_index(PyObject *object);
Matrix index_matrix(const Index *index);

/* The `count` rows of the greatest products, but for the excluded ones (ascending); best first, equal ones by row. How
   many there are; -1 without memory. `most` is the greatest product of all, excluded or not; NaN when there is none. */
Py_ssize_t index_search(const Index *index, const float *query, const int64_t *excluded, Py_ssize_t exclusions,
                        Py_ssize_t count, Hit *found, float *most);

/* Whether a comes before b: the greater score, of equal ones the lower row. */
static inline int before(Hit a, Hit b) { return a.score > b.score || (a.score == b.score && a.row < b.row); }

void select_hits(Hit *hits, Py_ssize_t count, Py_ssize_t kept);
void sort_hits(Hit *hits, Py_ssize_t count);

static inline float product(const float *a, const float *b, Py_ssize_t width) {
    float lanes[LANES] = {0};
    Py_ssize_t j = 0;
    for (; j + LANES <= width; j += LANES)
        for (int k = 0; k < LANES; k++) lanes[k] += a[j + k] * b[j + k];
    for (int k = 0; j + k < width; k++) lanes[k] += a[j + k] * b[j + k];
    for (int half = LANES / 2; half; half /= 2)
        for (int k = 0; k < half; k++) lanes[k] += lanes[k + half];
    return lanes[0];
}

static inline void fetch(const float *vector, Py_ssize_t width) {
    for (Py_ssize_t j = 0; j < width + 15; j += 16) __builtin_prefetch(vector + (j < width ? j : width - 1));
}

static inline int is_among(const int64_t *sorted, Py_ssize_t count, int64_t row) {
    Py_ssize_t low = 0, high = count;
    while (low < high) {
        Py_ssize_t middle = (low + high) / 2;
        if (sorted[middle] < row) low = middle + 1;
        else high = middle;
    }
    return low < count && sorted[low] == row;
}

#endif
