/* Ranker: the choice of a list from scores, and the exact contributions of its components. */

#include "index.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define COMPONENTS 5
#define DIVERSITY 4 /* the component that changes while a list is chosen */
#define DIVERSE 10  /* the greatest diversity, in tenths */
#define COALITIONS 32
#define FINE 2048.0f /* to which vectors are rounded for diversity */
#define LONGEST_WORD 64

static PyObject *at_each_diversity(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    static const Form forms[] = {{"components", 'f', 0}, {"out", 'f', 1}};
    Array a[2];
    if (!arguments(count, 2) || !take(given, forms, 2, a)) return NULL;
    Py_ssize_t size = a[0].length;
    float *out = a[1].buffer.buf;
    int good = expect(size % COMPONENTS == 0 && a[1].length == (DIVERSE + 1) * size,
                      "five components a row, and room for 11 of each");
    for (int tenths = 0; good && tenths <= DIVERSE; tenths++, out += size) {
        memcpy(out, a[0].buffer.buf, size * sizeof(float));
        for (Py_ssize_t last = COMPONENTS - 1; last < size; last += COMPONENTS) out[last] = (float)tenths / DIVERSE;
    }
    release(a, 2);
    return good ? Py_NewRef(Py_None) : NULL;
}

/* Scores are whole millionths from here on: the last bits differ between hosts and batch sizes. */
static inline double micro(float score) { return rint((double)score * 1e6); }

/* Diversity of two vectors of length 1 beside each other, in whole tenths: 1 minus their cosine, in 0..1. The vectors
   are whole 2048ths, so that their products are whole, and exact in whatever order they are added. */
static inline int32_t tenths_apart(const float *a, const float *b, Py_ssize_t width) {
    float apart = rintf((FINE * FINE - product(a, b, width)) * (10 / FINE / FINE));
    return apart < 0 ? 0 : apart > 10 ? 10 : (int32_t)apart;
}

static inline void tenths_beside(const float *whole, Py_ssize_t rows, Py_ssize_t width, Py_ssize_t pick,
                                 int32_t *beside) {
    for (Py_ssize_t i = 0; i < rows; i++) beside[i] = tenths_apart(whole + i * width, whole + pick * width, width);
}

FAST static void fill_apart(const float *vectors, Py_ssize_t rows, Py_ssize_t width, float *whole, int32_t *out) {
    for (Py_ssize_t i = 0; i < rows * width; i++) whole[i] = rintf(vectors[i] * FINE);
    for (Py_ssize_t i = 0; i < rows; i++) tenths_beside(whole, rows, width, i, out + i * rows);
}

static PyObject *apart(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    static const Form forms[] = {{"vectors", 'f', 0}, {"out", 'i', 1}};
    Array a[2];
    if (!arguments(count, 2) || !take(given, forms, 2, a)) return NULL;
    Py_ssize_t rows = (Py_ssize_t)sqrt((double)a[1].length), width = rows ? a[0].length / rows : 0;
    int good =
        expect(a[1].length == rows * rows && a[0].length == rows * width, "vectors of one width, and a pair each");
    float *whole = good ? malloc(sizeof(float) * (rows * width + 1)) : NULL;
    if (whole) fill_apart(DATA(a[0], float), rows, width, whole, DATA(a[1], int32_t));
    else if (good) PyErr_NoMemory();
    free(whole);
    release(a, 2);
    return whole ? Py_NewRef(Py_None) : NULL;
}

FAST static void choose_greedily(const float *scores, const float *vectors, Py_ssize_t rows, Py_ssize_t width,
                                 Py_ssize_t limit, float *whole, int32_t *tenths, int32_t *beside, Hit *left,
                                 Hit *picked) {
    Py_ssize_t count = rows;
    for (Py_ssize_t i = 0; i < rows * width; i++) whole[i] = rintf(vectors[i] * FINE);
    for (Py_ssize_t i = 0; i < rows; i++) {
        tenths[i] = DIVERSE;
        left[i] = (Hit){(float)micro(scores[DIVERSE * rows + i]), (int32_t)i};
    }
    for (Py_ssize_t n = 0; n < limit; n++) {
        Py_ssize_t best = 0;
        for (Py_ssize_t i = 1; i < count; i++)
            if (before(left[i], left[best])) best = i;
        picked[n] = left[best];
        left[best] = left[--count];
        tenths_beside(whole, rows, width, picked[n].row, beside);
        for (Py_ssize_t i = 0; i < count; i++) {
            int32_t row = left[i].row;
            if (beside[row] < tenths[row]) {
                tenths[row] = beside[row];
                left[i].score = (float)micro(scores[tenths[row] * rows + row]);
            }
        }
    }
    sort_hits(picked, limit);
}

/* A candidate as each coalition of its components has it: component i is there where bit i of the number is set, else
 * 0. */
static void fill_coalitions(const float *components, float *out) {
    for (int with = 0; with < COALITIONS; with++, out += COMPONENTS)
        for (int j = 0; j < COMPONENTS; j++) out[j] = with >> j & 1 ? components[j] : 0;
}

static PyObject *choose(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    static const Form forms[] = {
        {"scores", 'f', 0}, {"vectors", 'f', 0}, {"components", 'f', 0}, {"picks", 'l', 1}, {"chosen", 'f', 1}};
    Array a[5];
    if (!arguments(count, 5) || !take(given, forms, 5, a)) return NULL;
    Py_ssize_t rows = a[2].length / COMPONENTS, width = rows ? a[1].length / rows : 0, limit = a[3].length;
    int good = expect(a[0].length == rows * (DIVERSE + 1) && a[1].length == rows * width && limit <= rows &&
                          a[4].length == limit * COMPONENTS,
                      "scores at 11 diversities, vectors of one width, and no more picks than candidates");
    char *room = good ? malloc(rows * (width * sizeof(float) + 2 * sizeof(int32_t) + 2 * sizeof(Hit)) + 1) : NULL;
    if (room) {
        float *whole = (float *)room, *chosen = DATA(a[4], float);
        int32_t *tenths = (int32_t *)(whole + rows * width);
        Hit *left = (Hit *)(tenths + 2 * rows), *picked = left + rows;
        choose_greedily(DATA(a[0], float), DATA(a[1], float), rows, width, limit, whole, tenths, tenths + rows, left,
                        picked);
        for (Py_ssize_t n = 0; n < limit; n++, chosen += COMPONENTS) {
            DATA(a[3], int64_t)[n] = picked[n].row;
            memcpy(chosen, DATA(a[2], float) + picked[n].row * COMPONENTS, sizeof(float) * COMPONENTS);
            chosen[DIVERSITY] = (float)tenths[picked[n].row] / DIVERSE;
        }
    } else if (good) {
        PyErr_NoMemory();
    }
    free(room);
    release(a, 5);
    return room ? Py_NewRef(Py_None) : NULL;
}

static PyObject *coalitions(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    static const Form forms[] = {{"components", 'f', 0}, {"out", 'f', 1}};
    Array a[2];
    if (!arguments(count, 2) || !take(given, forms, 2, a)) return NULL;
    int good = expect(a[0].length % COMPONENTS == 0 && a[1].length == COALITIONS * a[0].length,
                      "five components a row, and room for 32 of each");
    for (Py_ssize_t i = 0; good && i < a[0].length; i += COMPONENTS)
        fill_coalitions(DATA(a[0], float) + i, DATA(a[1], float) + i * COALITIONS);
    release(a, 2);
    return good ? Py_NewRef(Py_None) : NULL;
}

/* Weight of a coalition's score in the Shapley value of a component that has joined it, by the number of the others in
   it: s! (4 - s)! / 5!. */
static const double SHARES[COMPONENTS] = {24.0 / 120, 6.0 / 120, 4.0 / 120, 6.0 / 120, 24.0 / 120};

/* The Shapley values of one candidate from its scores in all coalitions; what rounding leaves over goes to the largest.
 */
FAST static void shapley(const double *scores, double *values) {
    double rest = scores[COALITIONS - 1] - scores[0];
    int largest = 0;
    for (int i = 0; i < COMPONENTS; i++) {
        double value = 0;
        for (int with = 0; with < COALITIONS; with++) {
            if (!(with >> i & 1)) continue;
            int others = -1;
            for (int member = 0; member < COMPONENTS; member++) others += with >> member & 1;
            value += SHARES[others] * (scores[with] - scores[with & ~(1 << i)]);
        }
        values[i] = rint(value);
        rest -= values[i];
        if (fabs(values[i]) > fabs(values[largest])) largest = i;
    }
    values[largest] += rest;
}

static PyObject *explain(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    static const Form forms[] = {{"scores", 'f', 0}, {"base", 'd', 1}, {"values", 'd', 1}};
    Array a[3];
    if (!arguments(count, 3) || !take(given, forms, 3, a)) return NULL;
    Py_ssize_t rows = a[1].length;
    int good =
        expect(a[0].length == rows * COALITIONS && a[2].length == rows * COMPONENTS, "32 scores and five values a row");
    for (Py_ssize_t row = 0; good && row < rows; row++) {
        double scores[COALITIONS], *values = (double *)a[2].buffer.buf + row * COMPONENTS;
        for (int i = 0; i < COALITIONS; i++) scores[i] = micro(((const float *)a[0].buffer.buf)[row * COALITIONS + i]);
        shapley(scores, values);
        for (int i = 0; i < COMPONENTS; i++) values[i] = values[i] / 1e6 + 0.0; /* no negative zeros */
        ((double *)a[1].buffer.buf)[row] = scores[0] / 1e6;
    }
    release(a, 3);
    return good ? Py_NewRef(Py_None) : NULL;
}

/* What speaks for a candidate, in whole percents that sum to 100: the largest remainders are rounded up. */
static void percents_of(const double *values, int32_t *percents) {
    double total = 0, remainders[COMPONENTS];
    for (int i = 0; i < COMPONENTS; i++) total += values[i] > 0 ? values[i] : 0;
    int lacking = total > 0 ? 100 : 0;
    for (int i = 0; i < COMPONENTS; i++) {
        double exact = total > 0 && values[i] > 0 ? 100 * values[i] / total : 0;
        percents[i] = (int32_t)floor(exact);
        remainders[i] = exact - percents[i];
        lacking -= percents[i];
    }
    for (; lacking > 0; lacking--) {
        int next = 0;
        for (int i = 1; i < COMPONENTS; i++)
            if (remainders[i] > remainders[next]) next = i;
        percents[next]++;
        remainders[next] = -1;
    }
}

/* In words, the largest first: "70% collaborative + 30% freshness"; `otherwise` when nothing speaks for it. */
static PyObject *reason_of(const double *values, const char *const *words, PyObject *otherwise) {
    int32_t percents[COMPONENTS];
    char told[COMPONENTS * (LONGEST_WORD + 16)], *end = told;
    percents_of(values, percents);
    for (;;) {
        int next = 0;
        for (int i = 1; i < COMPONENTS; i++)
            if (percents[i] > percents[next]) next = i;
        int32_t percent = percents[next];
        if (percent <= 0) break;
        if (end > told) end = (char *)memcpy(end, " + ", 3) + 3;
        if (percent == 100) *end++ = '1';
        if (percent >= 10) *end++ = (char)('0' + percent / 10 % 10);
        *end++ = (char)('0' + percent % 10);
        end = (char *)memcpy(end, "% ", 2) + 2;
        end = (char *)memcpy(end, words[next], strlen(words[next])) + strlen(words[next]);
        percents[next] = 0;
    }
    return end > told ? PyUnicode_FromStringAndSize(told, end - told) : Py_NewRef(otherwise);
}

static PyObject *contributions_of(double base, const double *values, PyObject *names) {
    PyObject *found = PyDict_New();
    for (int i = 0; found && i <= COMPONENTS; i++) {
        PyObject *number = PyFloat_FromDouble(i ? values[i - 1] : base);
        if (!number || PyDict_SetItem(found, PyTuple_GetItem(names, i), number) < 0) Py_CLEAR(found);
        Py_XDECREF(number);
    }
    return found;
}

static PyObject *told_of(double base, const double *values, PyObject *names, const char *const *words,
                         PyObject *otherwise) {
    double score = base * 1e6; /* whole millionths add up exactly */
    for (int i = 0; i < COMPONENTS; i++) score += rint(values[i] * 1e6);
    PyObject *reason = reason_of(values, words, otherwise), *contributions = contributions_of(base, values, names);
    if (reason && contributions) return Py_BuildValue("dNN", rint(score) / 1e6, reason, contributions);
    Py_XDECREF(reason);
    Py_XDECREF(contributions);
    return NULL;
}

static int read_words(PyObject *given, const char **words) {
    int good = expect(PyTuple_Check(given) && PyTuple_Size(given) == COMPONENTS, "a tuple of five words");
    for (int i = 0; good && i < COMPONENTS; i++) {
        Py_ssize_t length;
        words[i] = PyUnicode_AsUTF8AndSize(PyTuple_GetItem(given, i), &length);
        good = words[i] && expect(length <= LONGEST_WORD, "words of at most 64 bytes");
    }
    return good;
}

static PyObject *tell(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    static const Form forms[] = {{"base", 'd', 0}, {"values", 'd', 0}};
    Array a[2];
    const char *words[COMPONENTS];
    if (!arguments(count, 5) ||
        !expect(PyTuple_Check(given[2]) && PyTuple_Size(given[2]) == COMPONENTS + 1, "a tuple of six names") ||
        !read_words(given[3], words) || !take(given, forms, 2, a))
        return NULL;
    PyObject *list =
        expect(a[1].length == a[0].length * COMPONENTS, "five values a row") ? PyList_New(a[0].length) : NULL;
    for (Py_ssize_t i = 0; list && i < a[0].length; i++) {
        PyObject *told = told_of(DATA(a[0], double)[i], DATA(a[1], double) + i * COMPONENTS, given[2], words, given[4]);
        if (!told || PyList_SetItem(list, i, told) < 0) Py_CLEAR(list);
    }
    release(a, 2);
    return list;
}

PyMethodDef ranker_functions[] = {FUNCTION(apart),      FUNCTION(at_each_diversity), FUNCTION(choose),
                                  FUNCTION(coalitions), FUNCTION(explain),           FUNCTION(tell),
                                  {NULL, NULL, 0, NULL}};
