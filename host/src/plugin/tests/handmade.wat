;; A plugin without a compiler: `raw.rs` puts core WebAssembly where a line says $…$, and says what is the matter with it.
(component
  $component$
  (core module $m
    $module$
    (memory (export "memory") 40)
    ;; Memory is given out from the second page on, and never taken back.
    (global $next (mut i32) (i32.const 65536))
    (func (export "cabi_realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      $realloc$
      (local.set $at (i32.and (i32.add (global.get $next) (i32.sub (local.get $align) (i32.const 1)))
                              (i32.sub (i32.const 0) (local.get $align))))
      (global.set $next (i32.add (local.get $at) (local.get $size)))
      (local.get $at))
    (func (export "describe") (result i32) (i32.const 16))
    (func (export "init") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 64))
    ;; Falls through to `ok` with an empty list.
    (func (export "preprocess") (param i32 i32 i32 i32 i32 i32) (result i32)
      (local $i i32)
      $preprocess$
      (i32.const 64))
    (func (export "postprocess") (param i32 i32) (result i32) (i32.const 64))
    (func (export "post-return") (param i32) $post-return$)
    ;; A string or list is an address and a length. The manifest: name, version, stages, config-schema, hosts.
    (data (i32.const 16) "\00\01\00\00\08\00\00\00" "\10\01\00\00\05\00\00\00" "\40\01\00\00\02\00\00\00")
    (data (i32.const 256) "handmade")
    (data (i32.const 272) "1.0.0")
    (data (i32.const 288) "preprocess")
    (data (i32.const 304) "postprocess")
    (data (i32.const 320) "\20\01\00\00\0a\00\00\00" "\30\01\00\00\0b\00\00\00")
    (data (i32.const 336) "UINT8")
    ;; 1 MiB, as a shape.
    (data (i32.const 344) "\00\00\10\00\00\00\00\00"))
  (core instance $i (instantiate $m $with$))

  (import "nexus:plugin/types@0.1.0" (instance $types
    (type $tensor' (record (field "name" string) (field "datatype" string) (field "shape" (list u64)) (field "data" (list u8))))
    (export "tensor" (type $tensor (eq $tensor')))
    (type $spec' (record (field "name" string) (field "datatype" string) (field "shape" (list s64))))
    (export "tensor-spec" (type $spec (eq $spec')))
    (type $model' (record (field "id" string) (field "version" string) (field "inputs" (list $spec))
      (field "outputs" (list $spec)) (field "labels" (list string))))
    (export "model" (type $model (eq $model')))
    (type $request' (record (field "content-type" string) (field "body" (list u8))
      (field "parameters" (list (tuple string string)))))
    (export "request" (type $request (eq $request')))
    (type $response' (record (field "content-type" string) (field "body" (list u8))))
    (export "response" (type $response (eq $response')))
    (type $error' (record (field "code" string) (field "message" string)))
    (export "error" (type $error (eq $error')))
    (type $manifest' (record (field "name" string) (field "version" string) (field "stages" (list string))
      (field "config-schema" string) (field "hosts" (list string))))
    (export "manifest" (type $manifest (eq $manifest')))))
  (alias export $types "tensor" (type $tensor))
  (alias export $types "model" (type $model))
  (alias export $types "request" (type $request))
  (alias export $types "response" (type $response))
  (alias export $types "error" (type $error))
  (alias export $types "manifest" (type $manifest))

  (func $describe (result $manifest)
    (canon lift (core func $i "describe") (memory $i "memory") (realloc (func $i "cabi_realloc"))))
  (func $init (param "model" $model) (param "config" string) (result (result (error $error)))
    (canon lift (core func $i "init") (memory $i "memory") (realloc (func $i "cabi_realloc"))))
  (func $preprocess (param "request" $request) (result (result (list $tensor) (error $error)))
    (canon lift (core func $i "preprocess") (memory $i "memory") (realloc (func $i "cabi_realloc"))
      (post-return (func $i "post-return"))))
  (func $postprocess (param "outputs" (list $tensor)) (result (result $response (error $error)))
    (canon lift (core func $i "postprocess") (memory $i "memory") (realloc (func $i "cabi_realloc"))))

  (instance $transform
    (export "describe" (func $describe))
    (export "init" (func $init))
    (export "preprocess" (func $preprocess))
    (export "postprocess" (func $postprocess)))
  (export "nexus:plugin/transform@0.1.0" (instance $transform)))
