#compdef iptrec
# Completion of iptrec's commands for zsh; iptrec completion --help tells how it is switched on.

_iptrec() {
    local -a answer values shown open open_shown
    local line value
    # (Q): without the quotes, as iptrec would get the words. A leading ~ is zsh's to expand.
    answer=("${(@f)$("${(Q)words[1]/#\~/$HOME}" completion zsh -- "${(@Q)words[1,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    for line in "${(@)answer[2,-1]}"; do
        value=${line%%$'\t'*}
        if [[ $value == *[/,] ]]; then
            open+=("$value") open_shown+=("${line/$'\t'/  -- }")
        else
            values+=("$value") shown+=("${line/$'\t'/  -- }")
        fi
    done
    local -a listed=()
    [[ "${answer[2]-}" == *$'\t'* ]] && listed=(-l)
    (( $#values )) && compadd "${listed[@]}" -V values -d shown -a values
    (( $#open )) && compadd "${listed[@]}" -V values -S '' -d open_shown -a open
    case ${answer[1]-} in
        files*)
            local suffixes=${${${answer[1]#files}# }// /|}
            [[ $PREFIX == --*=* ]] && compset -P '*='
            if [[ -n $suffixes ]]; then
                _files -g "*(${suffixes})"
            else
                _files
            fi
            ;;
        command)
            local at=$words[(i)--]
            shift $at words
            (( CURRENT -= at ))
            _normal
            ;;
    esac
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _iptrec "$@" # it was found in $fpath, and is called
else
    compdef _iptrec iptrec
fi
