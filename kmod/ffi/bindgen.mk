# SPDX-License-Identifier: GPL-2.0-only
#
# Own bindings: what kernel::bindings lacks, generated from ffi/own_bindings.h by every build.
#
# Types that kernel::bindings has in full are block-listed by name, so that generated code refers
# to kernel::bindings::T and pointers pass between both without a cast. Types that are only opaque
# there (struct sock, struct net, ...) are generated here in full and are distinct: cast those.
# Static inline functions get a wrapper in own_wrap.c, which is compiled into the module.

# Flags of GCC that libclang does not know; rust/Makefile of the kernel keeps the same list in a
# variable that modules cannot see.
own_skip_c_flags := -mno-fp-ret-in-387 -mpreferred-stack-boundary=% \
	-mskip-rax-setup -mgeneral-regs-only -msign-return-address=% \
	-mindirect-branch=thunk-extern -mindirect-branch-register \
	-mfunction-return=thunk-extern -mrecord-mcount -mabi=lp64 \
	-mindirect-branch-cs-prefix -mstack-protector-guard% -mtraceback=no \
	-mno-pointers-to-nested-functions -mno-string \
	-mno-strict-align -mstrict-align -mdirect-extern-access \
	-mexplicit-relocs -mno-check-zero-division \
	-fconserve-stack -falign-jumps=% -falign-loops=% \
	-femit-struct-debug-baseonly -fno-ipa-cp-clone -fno-ipa-sra \
	-fno-partial-inlining -fplugin-arg-arm_ssp_per_task_plugin-% \
	-fno-reorder-blocks -fno-allow-store-data-races -fasan-shadow-offset=% \
	-fzero-call-used-regs=% -fno-stack-clash-protection \
	-fno-inline-functions-called-once -fsanitize=bounds-strict \
	-fstrict-flex-arrays=% -fmin-function-alignment=% \
	-fzero-init-padding-bits=% -mno-fdpic \
	-fdiagnostics-show-context -fdiagnostics-show-context=% \
	--param=% --param asan-% -fno-isolate-erroneous-paths-dereference
own_target_x86   := x86_64-linux-gnu
own_target_arm64 := aarch64-linux-gnu
own_target_um    := x86_64-linux-gnu
ifdef CONFIG_CC_IS_CLANG
own_c_flags = $(c_flags)
else
own_c_flags = $(filter-out $(own_skip_c_flags),$(c_flags)) -w --target=$(own_target_$(SRCARCH))
endif

# One regular expression that matches every type that kernel::bindings has in full.
quiet_cmd_own_block = GEN     $@
      cmd_own_block = tr -s '\n ' '  ' <$< \
	| sed -E -e 's/pub struct [A-Za-z0-9_]+ \{ _unused ?: ?\[u8 ?; ?0(usize)?\] ?,? ?\}//g' \
		-e 's/pub struct [A-Za-z0-9_]+ \{ pub _address ?: ?u8 ?,? ?\}//g' \
	| grep -oE 'pub (struct|union|type) [A-Za-z0-9_]+' | cut -d' ' -f3 \
	| grep -vE '^(_bindgen_ty_|__Bindgen|__Incomplete)' | sort -u | paste -sd '|' \
	| sed 's/^/--blocklist-type=^(/; s/$$/)$$/' >$@

$(obj)/own_block.txt: $(objtree)/rust/bindings/bindings_generated.rs FORCE
	$(call if_changed,own_block)

own_params = $(shell sed -E "/^\#|^$$/d; s/.*/'&'/" $(src)/ffi/own_bindings.params)

quiet_cmd_own_bindgen = BINDGEN $@
      cmd_own_bindgen = \
	$(BINDGEN) $< $(own_params) "$$(cat $(obj)/own_block.txt)" \
		--rust-target 1.85 --use-core --with-derive-default --ctypes-prefix ffi \
		--no-layout-tests --no-debug '.*' --no-doc-comments \
		--enable-function-attribute-detection \
		--blocklist-type '__kernel_s?size_t|__kernel_ptrdiff_t' \
		--experimental --wrap-static-fns --wrap-static-fns-suffix=__own \
		--wrap-static-fns-path $(obj)/own_wrap \
		-o $@ -- $(own_c_flags) -fno-builtin -D__BINDGEN__ -DMODULE

$(obj)/own_bindings.rs: $(src)/ffi/own_bindings.h $(src)/ffi/own_bindings.params \
		$(obj)/own_block.txt FORCE
	$(call if_changed_dep,own_bindgen)

$(obj)/own_wrap.c: $(obj)/own_bindings.rs ;
CFLAGS_own_wrap.o := -Wno-missing-prototypes -Wno-missing-declarations

targets += own_bindings.rs own_block.txt
clean-files += own_bindings.rs own_wrap.c own_block.txt

# Where ffi/own.rs finds the generated file: env!("OWN_OBJ").
export OWN_OBJ := $(abspath $(obj))
