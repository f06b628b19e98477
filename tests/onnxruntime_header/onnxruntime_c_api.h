/* The part of ONNX Runtime's C interface that the example of docs/deploying.md uses, for machines without its headers.
 *
 * The wheel of onnxruntime brings the library and no headers. The library gives a table of functions that later versions
 * only append to, so these places hold for the version that is pinned and for those after it. */
#ifndef SPAR_TESTS_ONNXRUNTIME_C_API_H
#define SPAR_TESTS_ONNXRUNTIME_C_API_H

#include <stddef.h>
#include <stdint.h>

#define ORT_API_VERSION 1

typedef struct OrtStatus OrtStatus;
typedef struct OrtEnv OrtEnv;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtValue OrtValue;

typedef enum { ORT_LOGGING_LEVEL_WARNING = 2 } OrtLoggingLevel;
typedef enum { OrtDeviceAllocator = 0 } OrtAllocatorType;
typedef enum { OrtMemTypeDefault = 0 } OrtMemType;
typedef enum { ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1 } ONNXTensorElementDataType;

/* The number is the function's place in the table. */
typedef struct {
  void *places_0[2];
  const char *(*GetErrorMessage)(const OrtStatus *); /* 2 */
  OrtStatus *(*CreateEnv)(OrtLoggingLevel, const char *, OrtEnv **); /* 3 */
  void *places_4[3];
  OrtStatus *(*CreateSession)(const OrtEnv *, const char *, const OrtSessionOptions *, OrtSession **); /* 7 */
  void *places_8[1];
  OrtStatus *(*Run)(OrtSession *, const OrtRunOptions *, const char *const *, const OrtValue *const *, size_t,
                    const char *const *, size_t, OrtValue **); /* 9 */
  OrtStatus *(*CreateSessionOptions)(OrtSessionOptions **); /* 10 */
  void *places_11[13];
  OrtStatus *(*SetIntraOpNumThreads)(OrtSessionOptions *, int); /* 24 */
  void *places_25[24];
  OrtStatus *(*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo *, void *, size_t, const int64_t *, size_t,
                                               ONNXTensorElementDataType, OrtValue **); /* 49 */
  void *places_50[1];
  OrtStatus *(*GetTensorMutableData)(OrtValue *, void **); /* 51 */
  void *places_52[17];
  OrtStatus *(*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo **); /* 69 */
  void *places_70[26];
  void (*ReleaseValue)(OrtValue *); /* 96 */
} OrtApi;

typedef struct {
  const OrtApi *(*GetApi)(uint32_t);
} OrtApiBase;

const OrtApiBase *OrtGetApiBase(void);

#endif
